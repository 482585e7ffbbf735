// The viewer: puts the parts into an element, draws a frame when something changed, and takes input.

// Draws `data` (of `trace_data`) into `element`; `destroy()` of the returned object takes it out again.
function mountTrace(element, data) {
  const viewer = new Viewer(element, new Model(data));
  return { destroy: () => viewer.destroy() };
}

class Viewer {
  constructor(element, model) {
    this.model = model;
    this.camera = new Camera(model.states.list.length > 0);
    this.search = new Search(model);
    this.unit = STEPS;
    this.selection = null;
    this.hover = null;
    this.element = element;
    this.parts = buildParts(model);
    this.overview = new Overview(this.parts.overview, model);
    this.details = new Details(this.parts.details, model, (selection) => this.select(selection));
    element.classList.add("plait-trace");
    element.replaceChildren(...this.parts.all);
    this.#useTheme();
    this.left = labelWidth(this.parts.canvas.getContext("2d"), model, this.palette);
    this.theme = matchMedia("(prefers-color-scheme: dark)");
    this.onTheme = () => this.#useTheme();
    this.theme.addEventListener("change", this.onTheme);
    this.resizer = new ResizeObserver(() => this.#resize());
    this.resizer.observe(this.parts.scroller);
    this.#resize();
    new Controls(this);
    this.details.show(null);
    this.fitRows();
  }

  destroy() {
    this.resizer.disconnect();
    this.details.destroy();
    this.theme.removeEventListener("change", this.onTheme);
    cancelAnimationFrame(this.frame);
    this.element.classList.remove("plait-trace");
    this.element.replaceChildren();
  }

  get axis() {
    return this.model.axes[this.unit];
  }

  get scene() {
    const { model, camera, palette, axis, width, height, ratio } = this;
    return { model, camera, palette, axis, width, height, ratio, top: this.parts.scroller.scrollTop };
  }

  // -- what is shown -----------------------------------------------------------------------------------------------

  setUnit(unit) {
    this.unit = this.model.axes[unit] ? unit : STEPS;
    this.camera.fit(this.axis, this.left, this.width, this.#maxScale());
    this.refresh();
  }

  // A token gets at most 80 pixels.
  #maxScale() {
    const { begin, end } = this.axis, { count } = this.model.pieces;
    let densest = 1;
    for (let i = 0; i < begin.length; i++) {
      if (end[i] > begin[i]) densest = Math.max(densest, count[i] / (end[i] - begin[i]));
    }
    return densest * 80;
  }

  // Rows as high as they can be with all of them in sight, if their labels can be read then.
  fitRows(isWhole = false) {
    const fitting = (this.height - AXIS_HEIGHT - 8) / Math.max(this.model.order.length, 1);
    const [least, most] = this.camera.hasBands ? [26, 34] : [18, 28];
    this.setRow(Math.min(Math.max(fitting, isWhole ? MIN_ROW : least), most));
    this.parts.scroller.scrollTop = 0;
  }

  setRow(row, y = this.height / 2) {
    const { scroller, spacer } = this.parts, lane = (scroller.scrollTop + y - AXIS_HEIGHT) / this.camera.row;
    this.camera.row = Math.min(Math.max(row, MIN_ROW), MAX_ROW);
    spacer.style.height = `${AXIS_HEIGHT + this.model.order.length * this.camera.row + 8}px`;
    scroller.scrollTop = lane * this.camera.row - y + AXIS_HEIGHT;
    this.refresh();
  }

  select(selection, isShown = true) {
    this.selection = selection;
    this.details.show(selection);
    if (selection && isShown) this.#reveal(selection);
    this.parts.status.textContent = selection ? this.describe(selection) : "";
    this.refresh();
  }

  #reveal(selection) {
    const { scroller } = this.parts, y = this.model.lane[selection.branch] * this.camera.row;
    const room = this.height - AXIS_HEIGHT - this.camera.row;
    if (y < scroller.scrollTop || y > scroller.scrollTop + room) scroller.scrollTop = y - room / 2;
    const stretch = this.#stretchOf(selection);
    if (stretch) this.camera.show(...stretch);
  }

  // Where what is selected in a branch lies on the time axis; null if it is the branch itself.
  #stretchOf({ piece, token, last, tool, state }) {
    const { tools, states } = this.model;
    if (tool !== undefined) return [tools.list[tool].begin[this.axis.unit], tools.list[tool].end[this.axis.unit]];
    if (state !== undefined) return states.stretch(state, this.axis);
    return piece === null ? null : this.stretch(piece, token, last);
  }

  // Where a piece, or tokens of it, lie on the time axis.
  stretch(piece, token, last = token) {
    const { begin, end } = this.axis;
    if (token === null || !this.model.hasChars[piece]) return [begin[piece], end[piece]];
    const each = (end[piece] - begin[piece]) / this.model.pieces.count[piece], first = this.model.first[piece];
    const until = Math.min(last + 1, this.model.first[piece + 1]);
    return [begin[piece] + (token - first) * each, begin[piece] + (until - first) * each];
  }

  describe({ branch, piece, token, tool, state }) {
    const { model } = this, parts = [model.label(branch)];
    if (tool !== undefined) return [...parts, ...model.tools.describe(tool)].join(" \u00b7 ");
    if (state !== undefined) return [...parts, ...model.states.describe(state, this.axis)].join(" \u00b7 ");
    if (piece === null) {
      const { scores } = model.branches[branch];
      if (scores.length) parts.push(`score ${+scores.at(-1).toPrecision(4)}`);
      return [...parts, model.status(branch), plural(model.sampledOf[branch], "token")].join(" \u00b7 ");
    }
    if (token === null) {
      const kind = ["prompt", "injected", "sampled"][model.pieces.kind[piece]];
      return [...parts, `${kind}, ${plural(model.pieces.count[piece], "token")}`,
        clip(model.pieces.text[piece].trim(), 80)].join(" \u00b7 ");
    }
    const surprise = model.surprise[token];
    if (surprise !== UNKNOWN) parts.push(`p ${probability(surprise / 100)}`);
    const text = model.tokenText(token, piece);
    return [...parts, text === null ? `id ${model.ids[token]}` : JSON.stringify(text)].join(" \u00b7 ");
  }

  // -- drawing -----------------------------------------------------------------------------------------------------

  refresh() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
    });
  }

  draw() {
    const scene = this.scene, ctx = this.parts.canvas.getContext("2d");
    const lanes = new Lanes(scene), links = new Links(lanes);
    ctx.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    ctx.clearRect(0, 0, this.width, this.height);
    if (this.model.order.length) drawGrid(ctx, scene);
    else drawEmpty(ctx, scene);
    ctx.save();
    ctx.beginPath();
    ctx.rect(this.left, AXIS_HEIGHT, this.width - this.left, this.height - AXIS_HEIGHT);
    ctx.clip();
    drawBand(ctx, lanes, this.selection, this.palette.select);
    links.drawBehind(ctx);
    this.model.states.draw(ctx, lanes);
    lanes.draw(ctx);
    this.model.tools.draw(ctx, lanes);
    links.drawFront(ctx);
    this.#drawMarks(ctx, lanes);
    ctx.restore();
    drawLabels(ctx, lanes, this.selection);
    this.overview.draw(scene, this.search.matches.map((match) => this.#stretchOf(match)?.[0])
      .filter((begin) => begin !== undefined));
  }

  #drawMarks(ctx, lanes) {
    ctx.strokeStyle = this.palette.match;
    ctx.lineWidth = 2;
    for (let lane = lanes.firstLane; lane <= lanes.lastLane; lane++) {
      for (const match of this.search.of.get(this.model.order[lane]) ?? []) this.#outline(ctx, lanes, match);
    }
    for (const [place, colour] of [[this.hover, this.palette.soft], [this.selection, this.palette.ink]]) {
      ctx.strokeStyle = colour;
      if (place) this.#outline(ctx, lanes, place);
    }
  }

  #outline(ctx, lanes, place) {
    const box = this.#boxOf(lanes, place);
    if (!box || box.x > this.width || box.x + box.width < this.left) return;
    ctx.strokeRect(box.x - 0.5, box.y - 1, box.width + 1, box.height + 2);
  }

  #boxOf(lanes, place) {
    const { tools, states } = this.model;
    if (place.tool !== undefined) return tools.box(lanes, place.tool);
    if (place.state !== undefined) return states.box(lanes, place.state);
    if (place.piece === null) return null;
    const [begin, end] = this.#stretchOf(place), x = this.camera.x(begin);
    return { x, y: lanes.y(place.branch), width: Math.max(this.camera.x(end) - x - 1, 2), height: lanes.bar };
  }

  #useTheme() {
    this.palette = new Palette(this.element);
    this.refresh();
  }

  #resize() {
    const { scroller, canvas, overview } = this.parts;
    overview.style.height = `${OVERVIEW_HEIGHT}px`;  // The rest is the scroller's.
    this.width = Math.max(scroller.clientWidth, 200);
    this.height = Math.max(scroller.clientHeight, 80);
    this.ratio = devicePixelRatio || 1;
    for (const [element, height] of [[canvas, this.height], [overview, OVERVIEW_HEIGHT]]) {
      element.width = this.width * this.ratio;
      element.height = height * this.ratio;
      element.style.width = `${this.width}px`;
      element.style.height = `${height}px`;
    }
    this.camera.resize(this.left, this.width);
    this.refresh();
  }
}
