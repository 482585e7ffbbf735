// Text search over everything the branches wrote or were given, their tools with arguments and output, and their labels.

const MOST_MATCHES = 20000;

class Search {
  constructor(model) {
    this.model = model;
    this.texts = model.branches.map((_, branch) => {
      const pieces = model.piecesOf[branch], starts = [];
      let text = "";
      for (const piece of pieces) {
        starts.push(text.length);
        text += model.pieces.text[piece];
      }
      const lower = text.toLowerCase();
      // A few letters change their length in lower case; their branch is searched as it is written.
      return { text: lower.length === text.length ? lower : text, starts };
    });
    this.tools = model.tools.list.map(({ tool, arguments: all, output }) =>
      [tool, ...all.flat(), output].join("\n").toLowerCase());
    this.clear();
  }

  clear() {
    this.matches = [];
    this.of = new Map();
    this.current = -1;
  }

  // Matches in the order of the lanes. Of one in a label or a tool, piece and token are null.
  find(query) {
    this.clear();
    const wanted = query.toLowerCase();
    if (!wanted) return;
    for (const branch of this.model.order) {
      const found = [];
      if (this.model.branches[branch].label.toLowerCase().includes(wanted)) {
        found.push({ branch, piece: null, token: null, last: null });
      }
      for (const tool of this.model.tools.of[branch]) {
        if (this.tools[tool].includes(wanted)) found.push({ branch, piece: null, token: null, last: null, tool });
      }
      const { text, starts } = this.texts[branch];
      for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
        found.push(this.#match(branch, starts, at, at + wanted.length - 1));
        if (this.matches.length + found.length >= MOST_MATCHES) break;
      }
      if (found.length) this.of.set(branch, found);
      for (const match of found) this.matches.push(match);
      if (this.matches.length >= MOST_MATCHES) break;
    }
  }

  #match(branch, starts, from, to) {
    const [piece, token] = this.#place(branch, starts, from), [, last] = this.#place(branch, starts, to);
    return { branch, piece, token, last: Math.max(last, token) };
  }

  #place(branch, starts, char) {
    const number = search(starts, char + 1) - 1, piece = this.model.piecesOf[branch][number];
    return [piece, this.model.tokenAt(piece, char - starts[number])];
  }

  // The next match, or the one before; null if there is none.
  step(by) {
    if (!this.matches.length) return null;
    const count = this.matches.length;
    this.current = this.current < 0 ? (by > 0 ? 0 : count - 1) : (this.current + by + count) % count;
    return this.matches[this.current];
  }

  get summary() {
    const count = this.matches.length;
    if (!count) return "no match";
    const total = count >= MOST_MATCHES ? `more than ${number(count - 1)}` : number(count);
    return this.current < 0 ? plural(count, "match", "matches") : `${number(this.current + 1)} of ${total}`;
  }
}
