// Tokens too narrow for cells: their mean surprise for every few pixels of a lane, as an image with one row per lane.

const image = document.createElement("canvas");

class Bins {
  // `step`: pixels to a bin.
  constructor({ model, camera, palette }, numLanes, step) {
    Object.assign(this, { model, camera, step, shades: palette.shades });
    this.columns = Math.max(Math.ceil((camera.width - camera.left) / step), 1);
    this.rows = numLanes;
    this.pixels = new Uint32Array(this.columns * numLanes);
    this.used = new Uint8Array(numLanes);
  }

  // Tokens `a` to `b` of a lane, the first of them at x, each `each` pixels wide.
  fill(lane, a, b, x, each, alpha) {
    const { step, camera: { left }, model: { surpriseSum }, shades } = this, opacity = Math.round(alpha * 255) << 24;
    const from = Math.max(Math.round((x - left) / step), 0);
    const to = Math.min(Math.max(Math.round((x + (b - a) * each - left) / step), from + 1), this.columns);
    const tokens = step / each, row = lane * this.columns;
    let token = a + (from * step + left - x) / each;
    for (let column = from; column < to; column++, token += tokens) {
      const first = Math.min(Math.max(Math.floor(token), a), b - 1);
      const last = Math.min(Math.max(Math.ceil(token + tokens), first + 1), b);
      const mean = (surpriseSum[last] - surpriseSum[first]) / (last - first) / 100;
      this.pixels[row + column] = shades[level(mean)] | opacity;
    }
    if (to > from) this.used[lane] = 1;
  }

  draw(ctx, y, height) {
    if (!this.rows) return;
    image.width = this.columns;
    image.height = this.rows;
    const bytes = new Uint8ClampedArray(this.pixels.buffer);
    image.getContext("2d").putImageData(new ImageData(bytes, this.columns, this.rows), 0, 0);
    ctx.imageSmoothingEnabled = false;
    const { left } = this.camera, width = this.columns * this.step;
    for (let lane = 0; lane < this.rows; lane++) {
      if (this.used[lane]) ctx.drawImage(image, 0, lane, this.columns, 1, left, y(lane), width, height);
    }
  }
}
