// Input: pointer, wheel, keys and buttons.

class Controls {
  constructor(viewer) {
    this.viewer = viewer;
    this.parts = viewer.parts;
    this.#buttons();
    this.#searching();
    this.#pointer();
    this.#overview();
    this.parts.scroller.addEventListener("scroll", () => viewer.refresh(), { passive: true });
    this.parts.scroller.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    viewer.parts.body.addEventListener("keydown", (event) => this.#key(event));
  }

  #buttons() {
    const { viewer, parts } = this, { camera } = viewer;
    const actions = [
      [parts.in, () => this.#zoom(1.5)], [parts.out, () => this.#zoom(1 / 1.5)],
      [parts.lower, () => viewer.setRow(camera.row / 1.25)], [parts.higher, () => viewer.setRow(camera.row * 1.25)],
      [parts.whole, () => this.#fit()], [parts.panel, () => this.#panel()],
      [parts.next, () => this.#step(1)], [parts.previous, () => this.#step(-1)],
    ];
    for (const [button, action] of actions) button.addEventListener("click", action);
    for (const button of parts.axes) button.addEventListener("click", () => this.#axis(+button.dataset.unit));
    this.#axis(STEPS);
  }

  #axis(unit) {
    this.viewer.setUnit(unit);
    for (const button of this.parts.axes) button.ariaPressed = String(+button.dataset.unit === this.viewer.unit);
  }

  #panel() {
    const { details, panel } = this.parts;
    details.hidden = !details.hidden;
    panel.ariaPressed = String(!details.hidden);
  }

  #fit() {
    this.viewer.setUnit(this.viewer.unit);
    this.viewer.fitRows(true);
  }

  #zoom(factor, x) {
    this.viewer.camera.zoom(factor, x);
    this.viewer.refresh();
  }

  #pan(pixels) {
    this.viewer.camera.pan(pixels);
    this.viewer.refresh();
  }

  // -- search ------------------------------------------------------------------------------------------------------

  #searching() {
    const { parts, viewer } = this;
    parts.query.addEventListener("input", () => {
      viewer.search.find(parts.query.value);
      this.#tell();
      viewer.refresh();
    });
    parts.query.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Enter") this.#step(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") parts.scroller.focus();
    });
    this.#tell();
  }

  #step(by) {
    const match = this.viewer.search.step(by);
    if (match) this.viewer.select({ branch: match.branch, piece: match.piece, token: this.#tokenOf(match), tool: match.tool });
    this.#tell();
  }

  #tokenOf({ piece, token }) {
    return piece !== null && this.viewer.model.hasChars[piece] ? token : null;
  }

  #tell() {
    const { parts, viewer } = this, isSearching = parts.query.value !== "";
    parts.found.value = isSearching ? viewer.search.summary : "";
    parts.next.disabled = parts.previous.disabled = !viewer.search.matches.length;
  }

  // -- pointer -----------------------------------------------------------------------------------------------------

  #pointer() {
    const { viewer, parts } = this, { scroller, canvas } = parts;
    let drag = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      drag = { x: event.clientX, y: event.clientY, isMoving: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag && (drag.isMoving || Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4)) {
        this.#pan(drag.x - event.clientX);
        scroller.scrollTop += drag.y - event.clientY;
        drag = { x: event.clientX, y: event.clientY, isMoving: true };
        this.#hover(null);
      } else if (!drag) {
        this.#hover(event);
      }
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag && !drag.isMoving) viewer.select(hit(viewer.scene, event.offsetX, event.offsetY), false);
      drag = null;
    });
    canvas.addEventListener("pointercancel", () => { drag = null; });
    canvas.addEventListener("pointerleave", () => this.#hover(null));
  }

  #hover(event) {
    const { viewer, parts } = this, { tip } = parts;
    viewer.hover = event ? hit(viewer.scene, event.offsetX, event.offsetY) : null;
    // A label that can be read needs no tip, which would cover the next one.
    const isLabelled = event && event.offsetX < viewer.left && viewer.camera.row >= LABEL_ROW;
    tip.hidden = !viewer.hover || isLabelled;
    if (!tip.hidden) {
      tip.textContent = viewer.describe(viewer.hover);
      const x = Math.min(event.offsetX + 14, viewer.width - tip.offsetWidth - 8);
      const isBelow = event.offsetY + 22 + tip.offsetHeight < viewer.height;
      tip.style.transform = `translate(${Math.max(x, 4)}px, ${event.offsetY + (isBelow ? 18 : -10 - tip.offsetHeight)}px)`;
    }
    viewer.refresh();
  }

  #wheel(event) {
    const across = event.shiftKey && !event.deltaX ? event.deltaY : event.deltaX;
    if (event.ctrlKey || event.metaKey) this.#zoom(Math.exp(-event.deltaY * 0.004), event.offsetX);
    else if (Math.abs(across) > Math.abs(event.deltaY) || event.shiftKey) this.#pan(across);
    else return;  // The browser scrolls.
    event.preventDefault();
  }

  #overview() {
    const { viewer } = this, { overview } = this.parts;
    const move = (event) => {
      const { camera } = viewer;
      const middle = (camera.width + camera.left) / 2;
      camera.pan((viewer.overview.at(event.offsetX, viewer.axis) - camera.at(middle)) * camera.scale);
      viewer.refresh();
    };
    overview.addEventListener("pointerdown", (event) => {
      overview.setPointerCapture(event.pointerId);
      move(event);
    });
    overview.addEventListener("pointermove", (event) => {
      if (event.buttons) move(event);
    });
  }

  // -- keys --------------------------------------------------------------------------------------------------------

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { viewer, parts } = this, { camera } = viewer;
    const across = (by) => () => (event.shiftKey ? this.#pan(by * 120) : this.#walk(by));
    const actions = {
      ArrowUp: () => this.#climb(-1), ArrowDown: () => this.#climb(1), ArrowLeft: across(-1), ArrowRight: across(1),
      "+": () => this.#zoom(1.5), "=": () => this.#zoom(1.5), "-": () => this.#zoom(1 / 1.5),
      "[": () => viewer.setRow(camera.row / 1.25), "]": () => viewer.setRow(camera.row * 1.25),
      0: () => this.#fit(), t: () => this.#axis(1 - viewer.unit),
      "/": () => parts.query.focus(), d: () => this.#panel(), n: () => this.#step(1), N: () => this.#step(-1),
      Escape: () => viewer.select(null),
    };
    // In the panel, arrows scroll.
    const isInPanel = parts.details.contains(event.target);
    if (!(event.key in actions) || (isInPanel && event.key.startsWith("Arrow"))) return;
    actions[event.key]();
    event.preventDefault();
  }

  #climb(by) {
    const { model, selection } = this.viewer;
    if (!model.order.length) return;
    const lane = selection ? model.lane[selection.branch] + by : 0;
    const branch = model.order[Math.min(Math.max(lane, 0), model.order.length - 1)];
    this.viewer.select({ branch, piece: null, token: null });
  }

  // To the next sampled token of the branch, from its first if none is selected.
  #walk(by) {
    const { model, selection } = this.viewer;
    if (!selection) return;
    const pieces = model.piecesOf[selection.branch].filter((piece) => model.pieces.kind[piece] === SAMPLED);
    let { piece, token } = selection;
    if (token === null) {
      piece = pieces[0];
      if (piece === undefined) return;
      token = model.first[piece];
    } else if (token + by >= model.first[piece] && token + by < model.first[piece + 1]) {
      token += by;
    } else {
      piece = pieces[pieces.indexOf(piece) + by];
      if (piece === undefined) return;
      token = by > 0 ? model.first[piece] : model.first[piece + 1] - 1;
    }
    this.viewer.select({ branch: selection.branch, piece, token });
  }
}
