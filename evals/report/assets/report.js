"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const [PROBLEM, METHOD, BUDGET, WINDOW, ATTEMPT, CORRECT, EXTRACTED, REASON, FINISH, TOTAL, CRITICAL, BRANCHES, COUNTS,
  ORIGIN, TRACE] = Array(15).keys();
const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") made.onclick = value; else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// -- the legend picks lines out ---------------------------------------------------------------------------------
for (const button of byId("legend").children) {
  const lines = document.querySelectorAll(`.series[data-series="${button.dataset.series}"]`);
  const pick = (on) => {
    byId("plots").classList.toggle("picking", on);
    lines.forEach((line) => line.classList.toggle("picked", on));
  };
  button.onmouseenter = button.onfocus = () => pick(true);
  button.onmouseleave = button.onblur = () => pick(false);
}

// -- the problems -----------------------------------------------------------------------------------------------
const rows = new Map();  // "problem budget window" -> its rows
for (const row of data.rows) {
  const place = `${row[PROBLEM]} ${row[BUDGET]} ${row[WINDOW]}`;
  if (!rows.has(place)) rows.set(place, []);
  rows.get(place).push(row);
}
data.windows.forEach((window, i) => byId("window").append(element("option", { value: i }, String(window ?? "own limit"))));
data.budgets.forEach((budget, i) => byId("budget").append(element("option", { value: i }, budget)));
byId("window").value = data.windows.length - 1;
byId("budget-label").hidden = data.budgets.length < 2;
byId("problems").tHead.append(element("tr", {}, ...["problem", ...data.methods].map((name) => element("th", {}, name))));

const FILTERS = {
  all: () => true,
  differ: (found) => new Set(found.map((row) => row[CORRECT]).filter((correct) => correct !== null)).size > 1,
  wrong: (found) => found.some((row) => row[CORRECT] === 0),
  none: (found) => !found.some((row) => row[CORRECT]),
  failed: (found) => found.some((row) => row[CORRECT] === null),
};

function matches(problem, found, words) {
  const texts = [...problem, ...found.flatMap((row) => [row[EXTRACTED], data.reasons[row[REASON]]])];
  return texts.some((text) => (text ?? "").toLowerCase().includes(words));
}

function show() {
  const words = byId("search").value.toLowerCase();
  const lines = [];
  let correct = 0;
  data.problems.forEach((problem, i) => {
    const found = rows.get(`${i} ${byId("budget").value} ${byId("window").value}`) ?? [];
    if (!FILTERS[byId("show").value](found) || !matches(problem, found, words)) return;
    const cells = data.methods.map((_, method) => element("td", {}, ...found.filter((r) => r[METHOD] === method).map(verdict)));
    lines.push(element("tr", {}, element("td", { title: problem[1] }, problem[1]), ...cells));
    correct += found.some((row) => row[CORRECT]);
  });
  byId("problems").tBodies[0].replaceChildren(...lines);
  byId("count").textContent = `${lines.length} problems, ${correct} solved by some method`;
}

const VERDICTS = { 1: ["good", "\u2713", "correct"], 0: ["bad", "\u2717", "wrong"], null: ["failed", "!", "failed"] };

function verdict(row) {
  const [name, mark] = VERDICTS[row[CORRECT]];
  const button = element("button", { class: name, title: data.reasons[row[REASON]] }, mark);
  button.onclick = () => {
    document.querySelectorAll("#problems .picked").forEach((other) => other.classList.remove("picked"));
    button.classList.add("picked");
    detail(row);
  };
  return button;
}
for (const id of ["window", "budget", "show"]) byId(id).onchange = show;
byId("search").oninput = show;
show();

// -- one sample -------------------------------------------------------------------------------------------------
const ORIGINS = {
  run: "ran in this window",
  same: "ran in a larger window, and nothing came near the end of this one",
  cut: "the text of the run in a larger window, cut off at this one's end",
};

async function detail(row) {
  const [id, question, reference] = data.problems[row[PROBLEM]];
  const facts = {
    verdict: row[CORRECT] ? "correct" : `${VERDICTS[row[CORRECT]][2]}: ${data.reasons[row[REASON]]}`,
    extracted: row[EXTRACTED] ?? "nothing",
    ...(reference === null ? {} : { reference }),
    ended: row[FINISH],
    tokens: `${row[TOTAL].toLocaleString("en")} total, ${row[CRITICAL].toLocaleString("en")} critical, ${row[BRANCHES]} branches`,
    ...(Object.keys(row[COUNTS]).length ? { malformed: JSON.stringify(row[COUNTS]) } : {}),
    window: `${data.windows[row[WINDOW]] ?? "own limit"}: ${ORIGINS[row[ORIGIN]]}`,
    attempt: row[ATTEMPT] + 1,
  };
  const list = element("dl");
  for (const [name, value] of Object.entries(facts)) list.append(element("dt", {}, name), element("dd", {}, String(value)));
  const panel = byId("detail");
  panel.replaceChildren(element("h3", {}, `${data.methods[row[METHOD]]}, ${id}`),
    element("p", { class: "question" }, question), list);
  view(null);
  if (row[TRACE] === null) return;
  list.append(element("dt", {}, "open with"), element("dd", {}, element("code", {}, `plait trace view ${data.traces[row[TRACE]]}`)));
  picked = row;
  threads ??= unpack(byId("threads").textContent);
  const lines = (await threads)[row[TRACE]];
  const trace = row[TRACE] in full ? await unpack(full[row[TRACE]]) : null;
  if (picked !== row) return;  // Another one was picked meanwhile.
  panel.append(tree(lines));
  view(trace);
}

const full = JSON.parse(byId("full").textContent);
let threads = null, picked = null, shown = null;

function view(trace) {
  shown?.destroy();
  shown = null;
  byId("viewer").replaceChildren();
  byId("viewer").hidden = trace === null;
  if (trace !== null) shown = mountTrace(byId("viewer"), trace);
}

async function unpack(base64) {
  const bytes = Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

function tree(threads) {
  const depth = new Map();
  const lines = threads.map(([id, parent, label, tokens, status, tail]) => {
    depth.set(id, parent === null ? 0 : (depth.get(parent) ?? 0) + 1);
    const known = ["found", "merged"].includes(status) ? status : "";
    return element("li", { style: `margin-left: ${18 * depth.get(id)}px` },
      element("b", {}, label || id), ` ${tokens.toLocaleString("en")} tokens `, element("span", { class: known }, status),
      element("span", { class: "tail", title: tail }, `\u2066${tail}\u2069`));
  });
  return element("ul", { id: "tree" }, ...lines);
}
