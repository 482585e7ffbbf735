// The panel at the side: the job, or the selected branch with its text, or one of its tokens.

const CHUNK = 400;  // Tokens that are put into the page together, once they come into sight.

class Details {
  constructor(element, model, select) {
    this.element = element;
    this.model = model;
    this.select = select;
    this.branch = undefined;
    this.observer = new IntersectionObserver((entries) => {
      for (const entry of entries) if (entry.isIntersecting) this.#fill(entry.target);
    }, { root: element, rootMargin: "600px" });
    element.addEventListener("click", (event) => {
      const target = event.target.closest("[data-token], [data-branch], [data-piece], [data-state]");
      if (!target) return;
      const { token, branch, piece, state } = target.dataset;
      if (branch !== undefined) select({ branch: +branch, piece: null, token: null });
      else if (state !== undefined) select({ branch: this.branch, piece: null, token: null, state: +state });
      else if (token !== undefined) select({ branch: this.branch, piece: model.pieceOf(+token), token: +token });
      else select({ branch: this.branch, piece: +piece, token: null });
    });
    element.addEventListener("toggle", ({ target }) => this.#open(target), true);  // It does not bubble.
  }

  // A tool that was opened is filled and selected.
  #open(element) {
    if (!element.open || element.dataset.tool === undefined) return;
    const tool = +element.dataset.tool;
    fillTool(element, this.model.tools.list[tool]);
    if (this.selected?.tool !== tool) this.select({ branch: this.branch, piece: null, token: null, tool });
  }

  destroy() {
    this.observer.disconnect();
  }

  // `selection`: null, or branch, piece and token, the last two of which may be null.
  show(selection) {
    const branch = selection?.branch ?? null;
    this.selected = selection;
    if (branch !== this.branch) {
      this.branch = branch;
      this.observer.disconnect();
      this.facts = h("div");
      this.element.replaceChildren(...(branch === null ? this.#job() : this.#branch(branch)));
      this.element.scrollTop = 0;
    }
    this.#mark(selection);
  }

  #job() {
    const { job, branches } = this.model, usage = job.usage ?? {};
    const facts = {
      Answer: job.answer ?? "none", Finish: job.finish, Error: job.error, Model: job.model, Seed: job.seed,
      Branches: number(branches.length),
      Tools: toolCounts(this.model.tools.list),
      Generated: usage.generated_tokens != null ? plural(usage.generated_tokens, "token") : null,
      Injected: usage.injected_tokens ? plural(usage.injected_tokens, "token") : null,
      Prompts: usage.prompt_tokens ? plural(usage.prompt_tokens, "token") : null,
      "Critical path": usage.critical_tokens != null ? plural(usage.critical_tokens, "token") : null,
      "KV blocks": usage.peak_kv_blocks ? `${number(usage.peak_kv_blocks)} at most` : null,
      Seconds: usage.seconds != null ? seconds(usage.seconds) : null,
      Counts: Object.entries(usage.counts ?? {}).map(([name, n]) => `${name} ${n}`).join(", "),
      Phases: Object.entries(usage.phases ?? {}).map(([name, s]) => `${name} ${seconds(s)}`).join(", "),
    };
    const more = { parameters: job.parameters, settings: job.settings, details: job.details };
    return [
      h("h2", {}, "Job"),
      table(facts),
      h("p", { className: "hint" }, "Select a branch or a token to see what it is."),
      h("details", {}, h("summary", {}, "Parameters"), h("pre", {}, JSON.stringify(more, null, 2))),
    ];
  }

  #branch(index) {
    const { model } = this, branch = model.branches[index], counts = model.counts(index);
    const status = model.status(index);
    const joins = model.joins.filter((join) => join.branch === index);
    const facts = {
      Branch: branch.label ? branch.id : null, Model: branch.model,
      [branch.origin === "fork" ? "Forked from" : "Spawned by"]:
        branch.parent === null ? null : this.#link(branch.parent),
      Pruned: branch.pruned, Error: branch.error,
      Finish: branch.finish,
      Scores: branch.scores.map((score) => +score.toPrecision(4)).join(", "),
      Sampled: counts.sampled ? plural(counts.sampled, "token") : null,
      Surprise: counts.surprise === null ? null
        : `${counts.surprise.toFixed(3)} nats a token (geometric mean p ${probability(counts.surprise)})`,
      Injected: counts.injected ? plural(counts.injected, "token") : null,
      Prompt: counts.prompt ? plural(counts.prompt, "token") : null,
      Steps: `${number(branch.begin[STEPS])} to ${number(branch.end[STEPS])}`,
      Time: branch.begin[SECONDS] === null ? null
        : seconds(branch.begin[SECONDS]) + (branch.end[SECONDS] === null ? "" : ` to ${seconds(branch.end[SECONDS])}`),
      "Reads live": this.#links([...new Set(model.watches.filter((w) => w.branch === index).map((w) => w.watched))]),
      Children: this.#links(model.children[index]),
      Joins: joins.length
        ? joins.map((join) => `${plural(join.children.length, "branch", "branches")}, ${join.found.length} with a result`)
          .join("; ")
        : null,
    };
    const log = branchLog(model, index);
    return [
      h("h2", {}, model.label(index), " ", h("span", { className: `status ${statusClass(status)}` }, status)),
      table(facts),
      ...(log.length ? [h("h3", {}, "States and tools"), h("div", { className: "log" }, ...log)] : []),
      h("h3", {}, "Token"),
      this.facts,
      h("h3", {}, "Text"),
      ...this.#text(index),
    ];
  }

  #link(branch) {
    return h("button", { type: "button", className: "link", "data-branch": branch }, this.model.label(branch));
  }

  #links(branches) {
    if (!branches.length) return null;
    const shown = branches.slice(0, 24).flatMap((branch, i) => [i ? ", " : "", this.#link(branch)]);
    return h("span", {}, ...shown, branches.length > 24 ? ` and ${branches.length - 24} more` : "");
  }

  // The branch's text as chunks that are empty until they come into sight.
  #text(branch) {
    const chunks = [];
    for (const piece of this.model.piecesOf[branch]) {
      const first = this.model.first[piece], end = this.model.first[piece + 1];
      if (!this.model.hasChars[piece]) {
        const kind = ["prompt", "injected", "plain"][this.model.pieces.kind[piece]];
        chunks.push(h("span", { className: `piece ${kind}`, "data-piece": piece }, this.model.pieces.text[piece]));
        continue;
      }
      for (let token = first; token < end; token += CHUNK) {
        const chunk = h("span", { className: "chunk" });
        Object.assign(chunk, { piece, from: token, to: Math.min(token + CHUNK, end) });
        // Stands for its text until it is filled, so that the panel can be scrolled over it.
        chunk.style.minHeight = `${Math.ceil(((chunk.to - token) * 5) / 40)}em`;
        this.observer.observe(chunk);
        chunks.push(chunk);
      }
    }
    return [h("div", { className: "text" }, ...chunks)];
  }

  #fill(chunk) {
    this.observer.unobserve(chunk);
    if (chunk.firstChild) return;
    const { model } = this, kept = model.first[chunk.piece] + model.pieces.kept[chunk.piece];
    const tokens = [];
    for (let token = chunk.from; token < chunk.to; token++) {
      const span = h("span", { "data-token": token, className: token < kept ? "t" : "t forgotten" },
        model.tokenText(token, chunk.piece));
      const surprise = model.surprise[token];
      if (surprise !== UNKNOWN) {
        const shade = level(surprise / 100);
        span.style.setProperty("--shade", `${Math.round((shade / (LEVELS - 1)) * 100)}%`);
        if (shade > LEVELS * 0.5) span.classList.add("on-hot");
      }
      tokens.push(span);
    }
    chunk.style.minHeight = "";
    chunk.className = "chunk filled";
    chunk.append(...tokens);
  }

  #mark(selection) {
    this.element.querySelector(".selected")?.classList.remove("selected");
    if (selection === null) return;
    const { token, piece, tool, state } = selection;
    this.facts.replaceChildren(token === null
      ? h("p", { className: "hint" }, "None selected: click one, or walk with the arrow keys.")
      : table(this.#token(token)));
    let target = null;
    if (token !== null) {
      const chunk = [...this.element.querySelectorAll(".chunk")].find((c) => c.from <= token && token < c.to);
      if (chunk) this.#fill(chunk);
      target = this.element.querySelector(`[data-token="${token}"]`);
    } else if (piece !== null) {
      target = this.element.querySelector(`[data-piece="${piece}"]`);
    }
    if (tool !== undefined) {
      target = this.element.querySelector(`[data-tool="${tool}"]`);
      fillTool(target, this.model.tools.list[tool]);
      target.open = true;
    } else if (state !== undefined) {
      target = this.element.querySelector(`[data-state="${state}"]`);
    }
    if (!target) return;
    target.classList.add("selected");
    const box = target.getBoundingClientRect(), frame = this.element.getBoundingClientRect();
    if (box.top < frame.top || box.bottom > frame.bottom) {
      this.element.scrollTop += box.top - frame.top - frame.height / 2;
    }
  }

  #token(token) {
    const { model } = this, piece = model.pieceOf(token), offset = token - model.first[piece], { pieces } = model;
    const surprise = model.surprise[token] / 100, count = pieces.count[piece];
    const [began, ended] = [pieces.began[piece], pieces.ended[piece]];
    return {
      Text: h("code", {}, JSON.stringify(model.tokenText(token, piece) ?? "")),
      Id: String(model.ids[token]),
      Probability: surprise < 0 ? "not known" : `${probability(surprise)} (logprob ${(-surprise).toFixed(2)})`,
      Position: number(pieces.position[piece] + offset),
      Step: number(pieces.step[piece] + offset),
      Time: began === null ? null : `about ${seconds(began + ((ended - began) * offset) / count)}`,
      "In the end": offset < pieces.kept[piece] ? null : "forgotten by a rewind",
    };
  }
}

function statusClass(status) {
  return { found: "good", eos: "quiet", stop: "quiet", "no result": "quiet", "nothing sampled": "quiet", failed: "bad", pruned: "bad" }[status]
    ?? "warn";
}

// Facts that are there, as a list of names and values.
function table(facts) {
  const rows = Object.entries(facts).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", {}, ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
