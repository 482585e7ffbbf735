// What part of the tree is in sight: `origin` and `scale` along the time axis, `row` pixels per lane.

const MIN_ROW = 1, MAX_ROW = 36, MARGIN = 28;

class Camera {
  // `hasBands`: lanes have bands above their bars, for states.
  constructor(hasBands) {
    this.hasBands = hasBands;
    this.origin = 0;
    this.scale = 1;
    this.row = 20;
    this.left = 0;
    this.width = 1;
    this.length = 1;
    this.maxScale = 1;
  }

  // Heights of a lane's parts.
  get band() {
    if (!this.hasBands || this.row < 8) return 0;
    return this.row >= 24 ? 12 : 4;
  }

  get bar() {
    if (this.band) return Math.round((this.row - this.band) * 0.82);
    return this.row >= 10 ? Math.round(this.row * 0.72) : Math.max(this.row * 0.8, 1);
  }

  // Everything in sight. `left`: pixels that labels take; `width`: of the whole canvas.
  fit(axis, left, width, maxScale) {
    Object.assign(this, { left, width, length: axis.last, maxScale });
    this.scale = this.minScale;
    this.origin = 0;
    this.clamp();
  }

  resize(left, width) {
    const wasFit = this.scale <= this.minScale * 1.0001;
    Object.assign(this, { left, width });
    if (wasFit) this.scale = this.minScale;
    this.clamp();
  }

  get minScale() {
    return Math.max(this.width - this.left - 2 * MARGIN, 50) / this.length;
  }

  get end() {
    return this.at(this.width);
  }

  x(value) {
    return this.left + MARGIN + (value - this.origin) * this.scale;
  }

  at(x) {
    return this.origin + (x - this.left - MARGIN) / this.scale;
  }

  pan(pixels) {
    this.origin += pixels / this.scale;
    this.clamp();
  }

  zoom(factor, x = (this.left + this.width) / 2) {
    const value = this.at(x);
    this.scale = Math.min(Math.max(this.scale * factor, this.minScale), Math.max(this.maxScale, this.minScale));
    this.origin = value - (x - this.left - MARGIN) / this.scale;
    this.clamp();
  }

  // Bring a stretch into sight; leave the camera alone if it is in sight already.
  show(begin, end) {
    const x0 = this.x(begin), x1 = this.x(end);
    if (x0 >= this.left + MARGIN && x1 <= this.width - MARGIN) return;
    const middle = (begin + Math.min(end, begin + (this.width - this.left) / this.scale)) / 2;
    this.origin = middle - (this.width - this.left) / 2 / this.scale;
    this.clamp();
  }

  clamp() {
    const visible = Math.max(this.width - this.left - 2 * MARGIN, 50) / this.scale;
    this.origin = Math.max(Math.min(this.origin, this.length - visible), 0);
  }
}

// Round numbers for an axis, at least `least` apart, with about one tick per `pixels`.
function* ticks(camera, least, pixels = 110) {
  const rough = Math.max(pixels / camera.scale, least), power = 10 ** Math.floor(Math.log10(rough));
  const gap = power * ([1, 2, 5].find((m) => m * power >= rough) ?? 10);
  const decimals = Math.max(0, -Math.floor(Math.log10(gap) + 1e-9));
  for (let i = Math.ceil(Math.max(camera.at(camera.left), 0) / gap); i * gap <= camera.end; i++) {
    yield { value: i * gap, text: (i * gap).toLocaleString("en", { minimumFractionDigits: decimals }) };
  }
}
