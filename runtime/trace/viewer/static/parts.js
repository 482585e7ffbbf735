// The viewer's elements: head with figures and controls, legend, overview, drawing, panel.

function buildParts(model) {
  const parts = {
    overview: h("canvas", { className: "overview", title: "Drag to move through time", ariaHidden: "true" }),
    canvas: h("canvas", { ariaHidden: "true" }),
    spacer: h("div", { className: "spacer" }),
    tip: h("div", { className: "tip", hidden: true }),
    status: h("div", { className: "sr-only", role: "status", "aria-live": "polite" }),
    details: h("aside", { className: "details", tabIndex: 0, ariaLabel: "Details" }),
    axes: [["critical path", STEPS, "Time axis: tokens on the critical path"], ["wall time", SECONDS, "Time axis: seconds"]]
      .filter(([, unit]) => model.axes[unit])
      .map(([name, unit, title]) => h("button", { type: "button", title, "data-unit": unit }, name)),
    query: h("input", { type: "search", placeholder: "Search text ( / )", ariaLabel: "Search text", spellcheck: false }),
    found: h("output", { className: "found" }),
    previous: h("button", { type: "button", title: "Previous match (Shift+N)", ariaLabel: "Previous match" }, "\u2191"),
    next: h("button", { type: "button", title: "Next match (N)", ariaLabel: "Next match" }, "\u2193"),
    out: h("button", { type: "button", title: "Zoom out ( - )", ariaLabel: "Zoom out" }, "\u2212"),
    in: h("button", { type: "button", title: "Zoom in ( + )", ariaLabel: "Zoom in" }, "+"),
    lower: h("button", { type: "button", title: "Lower rows ( [ )", ariaLabel: "Lower rows" }, "\u2195\u2212"),
    higher: h("button", { type: "button", title: "Higher rows ( ] )", ariaLabel: "Higher rows" }, "\u2195+"),
    whole: h("button", { type: "button", title: "Whole tree ( 0 )" }, "Fit"),
    panel: h("button", { type: "button", className: "panel", title: "Show or hide the panel (d)", ariaPressed: "true" }, "Details"),
    keys: h("details", { className: "keys" }, h("summary", {}, "Keys"), table(KEYS)),
  };
  parts.scroller = h("div", { className: "scroller", tabIndex: 0, role: "application",
    ariaLabel: "Tree of branches over time. Arrow keys walk through branches and tokens." },
    h("div", { className: "sticky" }, parts.canvas, parts.tip), parts.spacer);
  parts.body = h("div", { className: "body" },
    h("div", { className: "drawing" }, parts.overview, parts.scroller), parts.details);
  parts.all = [
    h("header", {}, ...heading(model)),
    h("div", { className: "controls" },
      h("div", { className: "group", role: "group", ariaLabel: "Time axis" }, ...parts.axes),
      h("div", { className: "group" }, parts.out, parts.in, parts.lower, parts.higher, parts.whole),
      h("div", { className: "group" }, parts.query, parts.previous, parts.next, parts.found),
      parts.panel, parts.keys),
    legend(model),
    parts.body,
    parts.status,
  ];
  return parts;
}

const KEYS = {
  "\u2191 \u2193": "branch above, below", "\u2190 \u2192": "token before, after", "Shift + \u2190 \u2192": "move",
  "+ \u2212": "zoom", "[ ]": "height of rows", "0 or Fit": "whole tree", "t": "change the time axis",
  "/": "search", "n, Shift + n": "next match, previous", "d": "panel", "Esc": "select nothing",
  "Wheel": "scroll; with Ctrl zoom, with Shift move", "Drag": "move",
};

function heading(model) {
  const { job } = model, usage = job.usage ?? {};
  const finish = h("span", { className: `status ${finishClass(job)}` }, job.finish ?? "unfinished");
  const figures = [
    plural(model.branches.length, "branch", "branches"),
    usage.total_tokens != null ? plural(usage.total_tokens, "token") : plural(model.numTokens, "token"),
    usage.critical_tokens != null ? `${number(usage.critical_tokens)} on the critical path` : null,
    model.tools.list.length ? plural(model.tools.list.length, "tool call") : null,
    usage.seconds != null ? seconds(usage.seconds) : null,
  ].filter(Boolean);
  return [
    h("h1", {}, job.method ?? "Trace", h("small", {}, ` on ${job.model || "an unknown model"}`)),
    finish,
    h("span", { className: "answer", title: job.answer ?? "" }, job.answer ?? "no answer"),
    h("span", { className: "figures" }, figures.join(" \u00b7 ")),
  ];
}

function finishClass({ finish, error }) {
  if (error || finish === "failed") return "bad";
  return ["eos", "stop"].includes(finish) ? "good" : "warn";
}

// Explains what the trace has, and nothing else.
function legend(model) {
  const { branches, joins, watches, pieces } = model;
  const has = (kind) => pieces.kind.includes(kind);
  const isUnshaded = pieces.kind.some((kind, i) => kind === SAMPLED && pieces.count[i] && !model.hasSurprise[i]);
  const entries = [
    [model.hasSurprise.includes(1), "ramp", "\u2264 0.05", "sampled with p = 1"],
    [isUnshaded, "plain", "sampled, p not known"],
    [has(PROMPT), "prompt", "prompt"],
    [has(INJECTED), "injected", "put in by the runtime"],
    [pieces.kept.some((kept, i) => kept < pieces.count[i] || branches[pieces.branch[i]].pruned !== null), "forgotten", "forgotten by a rewind, or pruned"],
    [branches.some((b) => b.parent !== null && b.origin === "fork"), "fork", "fork (shared KV)"],
    [branches.some((b) => b.parent !== null && b.origin === "open"), "spawn", "spawn (own context)"],
    [joins.some((join) => join.merge), "merge", "merge (shared KV)"],
    [joins.some((join) => !join.merge && join.found.length), "join", "join (as text)"],
    [joins.some((join) => join.found.length < join.children.length), "lost", "no result"],
    [watches.length > 0, "live", "reads another branch live"],
    [branches.some((branch) => branch.pruned !== null || branch.error !== null), "pruned", "pruned or failed"],
    ...["ok", "failed", "interrupted"].map((outcome) =>
      [model.tools.list.some((tool) => tool.outcome === outcome), `tool ${outcome}`, `tool: ${outcome}`]),
    [model.outcome.includes("found"), "dot good", "handed back a result"],
    [branches.some((_, i) => statusClass(model.status(i)) === "warn"), "dot warn", "cut short"],
  ];
  return h("ul", { className: "legend", ariaLabel: "Legend" }, ...entries.filter(([isThere]) => isThere)
    .map(([, kind, text, before]) => h("li", {}, before ?? "", h("i", { className: `key ${kind}` }), text)),
  ...stateKeys(model.states));
}

// The names of states beside their colours; where there are too many for colours of their own, only what they are.
function stateKeys(states) {
  const names = states.names.length <= STATE_COLOURS ? states.names : states.names.length ? ["states"] : [];
  return names.map((name, colour) => {
    const key = h("i", { className: "key" });
    key.style.background = `var(--state-${colour})`;
    return h("li", {}, key, clip(name, 40));
  });
}
