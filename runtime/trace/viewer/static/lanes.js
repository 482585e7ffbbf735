// Lanes: one per branch, its pieces along the time axis, tokens shaded by how surprising they were.

const AXIS_HEIGHT = 26, CHAR = 6.65, TOKEN_FONT = "11px", LABEL_ROW = 11;
const HIDDEN = "\u2026";  // Stands for text that does not fit.
const FADED = 0.38;

// Rectangles by colour, so that a frame sets each colour once.
class Batch {
  constructor() { this.rects = new Map(); }

  add(colour, x, y, width, height) {
    let rects = this.rects.get(colour);
    if (!rects) this.rects.set(colour, rects = []);
    rects.push(x, y, width, height);
  }

  // All in their colours, or in one.
  draw(ctx, only) {
    for (const [colour, rects] of this.rects) {
      ctx.fillStyle = only ?? colour;
      for (let i = 0; i < rects.length; i += 4) ctx.fillRect(rects[i], rects[i + 1], rects[i + 2], rects[i + 3]);
    }
  }
}

class Lanes {
  // `scene`: model, camera, palette, axis, top (scrolled pixels), width, height; see viewer.js.
  constructor(scene) {
    Object.assign(this, scene);
    this.firstLane = Math.max(Math.floor(this.top / this.camera.row), 0);
    this.lastLane = Math.min(Math.ceil((this.top + this.height - AXIS_HEIGHT) / this.camera.row),
      this.model.order.length) - 1;
    this.bar = this.camera.bar;
    this.isCoarse = this.camera.row < 8;
    this.bins = new Bins(scene, Math.max(this.lastLane - this.firstLane + 1, 0), this.isCoarse ? 2 : 1);
    this.solid = new Batch();
    this.faded = new Batch();
    this.texts = { ink: [], on_hot: [], faint: [] };
  }

  // Top of a branch's bar.
  y(branch) {
    return laneTop(this, branch);
  }

  middle(branch) {
    return this.y(branch) + this.bar / 2;
  }

  draw(ctx) {
    for (let lane = this.firstLane; lane <= this.lastLane; lane++) {
      this.lane = lane - this.firstLane;
      this.#lane(this.model.order[lane]);
    }
    this.bins.draw(ctx, (lane) => this.y(this.model.order[lane + this.firstLane]), this.bar);
    // Over the paper, so that no line shines through.
    this.faded.draw(ctx, this.palette.paper);
    ctx.globalAlpha = FADED;
    this.faded.draw(ctx);
    ctx.globalAlpha = 1;
    this.solid.draw(ctx);
    this.#drawTexts(ctx);
  }

  #lane(branch) {
    const pieces = this.model.piecesOf[branch], { begin, end } = this.axis, { camera } = this;
    const from = camera.at(camera.left), to = camera.end;
    const isPruned = this.model.branches[branch].pruned !== null;
    // Pieces of a branch follow one another, so those in sight are neighbours.
    let low = 0, high = pieces.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (end[pieces[middle]] < from) low = middle + 1;
      else high = middle;
    }
    for (; low < pieces.length && begin[pieces[low]] <= to; low++) this.#piece(pieces[low], this.y(branch), isPruned);
  }

  #piece(piece, y, isPruned) {
    const { model, camera, palette } = this, kind = model.pieces.kind[piece], count = model.pieces.count[piece];
    const x0 = camera.x(this.axis.begin[piece]), x1 = camera.x(this.axis.end[piece]);
    if (kind === PROMPT) {
      const width = camera.row >= 8 ? 5 : 3;
      this.solid.add(palette.prompt, x0 - width - 1, y, width, this.bar);
    } else if (kind === INJECTED) {
      const width = Math.max(x1 - x0, 3);
      (isPruned ? this.faded : this.solid).add(palette.injected, x0, y, width - (width > 8 ? 1 : 0), this.bar);
      this.#text(model.pieces.text[piece].trim(), Math.max(x0, camera.left), Math.min(x1, camera.width), y, true, false);
    } else {
      const kept = isPruned ? 0 : model.pieces.kept[piece];
      const middle = x0 + (x1 - x0) * (kept / count);
      const first = model.first[piece], each = (x1 - x0) / count;
      if (kept) this.#tokens(this.solid, piece, first, first + kept, x0, middle, y, each);
      if (kept < count) this.#tokens(this.faded, piece, first + kept, first + count, middle, x1, y, each);
    }
  }

  // Tokens `a` to `b` between x0 and x1, `each` pixels wide.
  #tokens(batch, piece, a, b, x0, x1, y, each) {
    const { model, camera, palette, bar } = this;
    const left = Math.max(x0, camera.left - 2), right = Math.min(x1, camera.width);
    if (right - left <= 0 && x1 - x0 > 1) return;
    if (!model.hasSurprise[piece] && each < 5) {
      batch.add(palette.plain, left, y, Math.max(right - left, 1.5), bar);
      return;
    }
    if (this.isCoarse || each < 5) {
      this.bins.fill(this.lane, a, b, x0, each, batch === this.faded ? FADED : 1);
      return;
    }
    const last = Math.min(a + Math.ceil((right - x0) / each), b);
    for (let token = a + Math.max(Math.floor((left - x0) / each), 0); token < last; token++) {
      const x = x0 + (token - a) * each, surprise = model.surprise[token];
      const shade = surprise === UNKNOWN ? -1 : level(surprise / 100);
      batch.add(shade < 0 ? palette.plain : palette.ramp[shade], x, y, each - 1, bar);
      if (each < 10) continue;
      const text = model.tokenText(token, piece);
      if (text) this.#text(cellText(text), x, x + each, y, false, shade > LEVELS * 0.5);
    }
  }

  // Text in a box, if it fits; `isClipped`: or as much of it as does.
  #text(text, x0, x1, y, isClipped, isOnHot) {
    if (this.bar < 11) return;
    const chars = Math.floor((x1 - x0 - (isClipped ? 4 : 2)) / CHAR);
    if (isClipped && chars < 4) return;
    const shown = isClipped ? clip(text, chars) : text.length <= chars ? text : HIDDEN;
    const x = isClipped ? x0 + 3 : (x0 + x1 - 1 - shown.length * CHAR) / 2;
    const colour = shown === HIDDEN ? "faint" : isOnHot ? "on_hot" : "ink";
    this.texts[colour].push({ text: shown, x, y: y + this.bar / 2 + 0.5 });
  }

  #drawTexts(ctx) {
    ctx.font = `${TOKEN_FONT} ${this.palette.mono}`;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    for (const [colour, texts] of Object.entries(this.texts)) {
      ctx.fillStyle = this.palette[colour];
      for (const { text, x, y } of texts) ctx.fillText(text, x, y);
    }
  }
}

// Where the bar of a branch begins.
function laneTop({ model, camera, top }, branch) {
  const { row, band, bar } = camera;
  return AXIS_HEIGHT + model.lane[branch] * row - top + band + (row - band - bar) / 2;
}

// What is at a point: the branch of the lane and, if one is there, its tool, its state, or its piece and token.
function hit(scene, x, y) {
  const { model, camera, axis, top } = scene;
  const lane = Math.floor((y - AXIS_HEIGHT + top) / camera.row);
  if (y < AXIS_HEIGHT || lane < 0 || lane >= model.order.length) return null;
  const branch = model.order[lane];
  if (x < camera.left) return { branch, piece: null, token: null };
  const tool = model.tools.at(scene, branch, x, y), state = model.states.at(scene, branch, x, y);
  if (tool !== undefined) return { branch, piece: null, token: null, tool };
  if (state !== undefined) return { branch, piece: null, token: null, state };
  for (const piece of model.piecesOf[branch].toReversed()) {
    const x0 = camera.x(axis.begin[piece]), x1 = camera.x(axis.end[piece]), count = model.pieces.count[piece];
    const slack = x1 - x0 < 6 ? 4 : 0, before = model.pieces.kind[piece] === PROMPT ? 7 : slack;
    if (x < x0 - before || x > x1 + slack || !count) continue;
    const number = Math.min(Math.max(Math.floor(((x - x0) / Math.max(x1 - x0, 1e-9)) * count), 0), count - 1);
    return { branch, piece, token: model.pieces.kind[piece] === SAMPLED ? model.first[piece] + number : null };
  }
  return { branch, piece: null, token: null };
}
