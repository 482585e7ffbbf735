// The trace's data in typed arrays, and what the drawing asks of it.

const PROMPT = 0, INJECTED = 1, SAMPLED = 2;
const STEPS = 0, SECONDS = 1;
const UNKNOWN = -1;

class Model {
  constructor(data) {
    this.job = data.job;
    this.branches = data.branches;
    this.pieces = data.pieces;
    this.joins = data.joins;
    this.watches = data.watches;
    this.tools = new Tools(data.tools, data.branches.length);
    this.states = new States(data.states, data.branches.length);
    this.numPieces = data.pieces.count.length;
    this.ids = data.tokens.id;
    this.surprise = Int16Array.from(data.tokens.surprise);
    this.numTokens = this.ids.length;
    this.#index(data.tokens.chars);
    this.#arrange();
    this.axes = [this.#axis(STEPS), this.#axis(SECONDS)];
  }

  // Running sums: token -> where its text ends, and the surprise of all tokens before it.
  #index(chars) {
    const { count, kind } = this.pieces;
    this.first = new Int32Array(this.numPieces + 1);
    this.charEnds = new Int32Array(this.numTokens);
    this.surpriseSum = new Float64Array(this.numTokens + 1);
    this.hasChars = new Uint8Array(this.numPieces);
    this.hasSurprise = new Uint8Array(this.numPieces);
    for (let piece = 0, token = 0; piece < this.numPieces; piece++) {
      this.first[piece] = token;
      let end = 0;
      for (const last = token + count[piece]; token < last; token++) {
        end += chars[token];
        this.charEnds[token] = end;
        this.surpriseSum[token + 1] = this.surpriseSum[token] + Math.max(this.surprise[token], 0);
        if (this.surprise[token] !== UNKNOWN) this.hasSurprise[piece] = 1;
      }
      this.hasChars[piece] = kind[piece] === SAMPLED && end > 0 ? 1 : 0;
      this.first[piece + 1] = token;
    }
  }

  // Lanes: branches from top to bottom, each above those it spawned or forked.
  #arrange() {
    const children = this.branches.map(() => []), roots = [];
    this.branches.forEach((branch, i) => (branch.parent === null ? roots : children[branch.parent]).push(i));
    this.children = children;
    this.order = [];
    this.depth = new Uint16Array(this.branches.length);
    const stack = roots.reverse();
    while (stack.length) {
      const i = stack.pop();
      this.order.push(i);
      for (const child of children[i].slice().reverse()) {
        this.depth[child] = this.depth[i] + 1;
        stack.push(child);
      }
    }
    this.lane = new Int32Array(this.branches.length);
    this.order.forEach((i, lane) => { this.lane[i] = lane; });
    this.piecesOf = this.branches.map(() => []);
    for (let piece = 0; piece < this.numPieces; piece++) this.piecesOf[this.pieces.branch[piece]].push(piece);
    this.sampledOf = this.branches.map((_, branch) => this.counts(branch).sampled);
    this.outcome = this.branches.map(() => null);
    for (const join of this.joins) {
      for (const child of join.children) this.outcome[child] = join.found.includes(child) ? "found" : "no result";
    }
  }

  // Where pieces and branches lie on one time axis; `worked`: where each branch's last token or tool ends. Null if the
  // trace does not say.
  #axis(unit) {
    const { branch, count, kind, step, began, ended } = this.pieces;
    const isUnknown = began.includes(null) || this.branches.some((branch) => branch.begin[SECONDS] === null);
    if (unit === SECONDS && isUnknown) return null;
    const begin = new Float64Array(this.numPieces), end = new Float64Array(this.numPieces);
    const worked = Float64Array.from(this.branches, (branch) => branch.begin[unit]);
    let last = 0;
    for (let piece = 0; piece < this.numPieces; piece++) {
      const steps = kind[piece] === PROMPT ? 0 : count[piece];
      begin[piece] = unit === STEPS ? step[piece] : began[piece];
      end[piece] = unit === STEPS ? step[piece] + steps : ended[piece];
      worked[branch[piece]] = Math.max(worked[branch[piece]], end[piece]);
    }
    for (const { end: closed } of this.branches) last = Math.max(last, closed[unit] ?? 0);
    for (const tool of this.tools.list) worked[tool.branch] = Math.max(worked[tool.branch], tool.end[unit]);
    last = worked.reduce((a, b) => Math.max(a, b), last);
    for (const state of this.states.list) last = Math.max(last, state.at[unit]);
    return { unit, begin, end, worked, last: last || 1 };
  }

  label(branch) {
    return this.branches[branch].label || this.branches[branch].id;
  }

  // Mean surprise in nats of the tokens from `a` up to `b`.
  meanSurprise(a, b) {
    return b > a ? (this.surpriseSum[b] - this.surpriseSum[a]) / (b - a) / 100 : 0;
  }

  pieceOf(token) {
    return search(this.first, token + 1) - 1;
  }

  tokenText(token, piece = this.pieceOf(token)) {
    if (!this.hasChars[piece]) return null;
    const start = token === this.first[piece] ? 0 : this.charEnds[token - 1];
    return this.pieces.text[piece].slice(start, this.charEnds[token]);
  }

  // The token of a piece that holds the character; the piece's first one if its tokens' texts are not known.
  tokenAt(piece, char) {
    const first = this.first[piece];
    if (!this.hasChars[piece]) return first;
    return Math.min(search(this.charEnds, char + 1, first, this.first[piece + 1]), this.first[piece + 1] - 1);
  }

  // Of a branch: tokens by kind, and the mean surprise of the sampled ones (null: not known).
  counts(branch) {
    const tokens = [0, 0, 0];
    let surprise = 0, known = 0;
    for (const piece of this.piecesOf[branch]) {
      const count = this.pieces.count[piece];
      tokens[this.pieces.kind[piece]] += count;
      if (!this.hasSurprise[piece]) continue;
      surprise += this.meanSurprise(this.first[piece], this.first[piece + 1]) * count;
      known += count;
    }
    return { prompt: tokens[PROMPT], injected: tokens[INJECTED], sampled: tokens[SAMPLED],
      surprise: known ? surprise / known : null };
  }

  status(branch) {
    const { error, pruned, finish } = this.branches[branch];
    if (error) return "failed";
    if (pruned) return "pruned";
    if (this.outcome[branch]) return this.outcome[branch];
    return this.sampledOf[branch] && finish ? finish : "nothing sampled";
  }
}

// First index in the sorted array, between `low` and `high`, whose value is at least `value`.
function search(array, value, low = 0, high = array.length) {
  while (low < high) {
    const middle = (low + high) >> 1;
    if (array[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
