// The list of what a branch went through and used, in the panel: its states, and its tools with their output.

// Entries in the order in which they came; the output of a tool is put into the page when it is opened.
function branchLog(model, branch) {
  const entries = [
    ...model.states.of[branch].map((i) => [model.states.list[i].at[SECONDS], stateEntry(model.states, i)]),
    ...model.tools.of[branch].map((i) => [model.tools.list[i].begin[SECONDS], toolEntry(model.tools, i)]),
  ];
  return entries.sort(([a], [b]) => a - b).map(([, entry]) => entry);
}

function stateEntry(states, i) {
  const { state, at } = states.list[i];
  const key = h("i", { className: "key" });
  key.style.background = `var(--state-${states.colour(i)})`;
  return h("button", { type: "button", className: "entry", "data-state": i },
    h("span", { className: "when" }, seconds(at[SECONDS])), key, h("span", {}, state));
}

function toolEntry(tools, i) {
  const { begin, end, outcome } = tools.list[i];
  return h("details", { className: "entry", "data-tool": i },
    h("summary", {}, h("span", { className: "when" }, seconds(begin[SECONDS])), h("i", { className: `key tool ${outcome}` }),
      h("span", { className: "title" }, tools.title(i)),
      h("span", { className: "lasted" }, outcome === "ok" ? "" : `${outcome}, `, seconds(end[SECONDS] - begin[SECONDS]))));
}

function fillTool(element, { outcome, arguments: all, output, begin, end, tool }) {
  if (element.childElementCount > 1) return;
  const facts = [
    ["Tool", tool], ["Outcome", outcome], ["Time", `${seconds(begin[SECONDS])} to ${seconds(end[SECONDS])}`],
    ["Step", number(begin[STEPS])],
    ...all.map(([name, value]) => [name, value.includes("\n") ? h("pre", { className: "output" }, value) : value]),
  ];
  element.append(h("dl", {}, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    output ? h("pre", { className: "output", tabIndex: 0 }, output) : h("p", { className: "hint" }, "No output."));
}

function toolCounts(tools) {
  if (!tools.length) return null;
  const failed = tools.filter(({ outcome }) => outcome === "failed").length;
  const interrupted = tools.filter(({ outcome }) => outcome === "interrupted").length;
  return [plural(tools.length, "call"), failed ? `${number(failed)} failed` : null,
    interrupted ? `${number(interrupted)} interrupted` : null].filter(Boolean).join(", ");
}
