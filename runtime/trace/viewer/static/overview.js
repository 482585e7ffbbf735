// The strip on top: how many branches were decoding at each time, what is in sight, where matches are.

const OVERVIEW_HEIGHT = 40;

class Overview {
  constructor(canvas, model) {
    this.canvas = canvas;
    this.model = model;
    this.key = null;
  }

  // Decoding branches, averaged over each pixel.
  #profile(axis, width) {
    const change = new Float64Array(width + 2), { kind, count } = this.model.pieces;
    for (let piece = 0; piece < this.model.numPieces; piece++) {
      if (kind[piece] !== SAMPLED || !count[piece]) continue;
      const a = (axis.begin[piece] / axis.last) * width, b = (axis.end[piece] / axis.last) * width;
      // The running sum of `change`, smeared over the pixels in which the piece begins and ends.
      for (const [at, sign] of [[a, 1], [b, -1]]) {
        const pixel = Math.min(Math.floor(at), width - 1), part = Math.min(at - pixel, 1);
        change[pixel] += sign * (1 - part);
        change[pixel + 1] += sign * part;
      }
    }
    for (let i = 1; i < width; i++) change[i] += change[i - 1];
    return change.subarray(0, width);
  }

  draw(scene, matches) {
    const { camera, palette, axis, width, ratio } = scene, ctx = this.canvas.getContext("2d");
    const from = camera.left + MARGIN, span = Math.max(Math.floor(width - from - MARGIN), 1);
    if (this.key !== `${axis.unit} ${span}`) {
      this.key = `${axis.unit} ${span}`;
      this.profile = this.#profile(axis, span);
      this.peak = this.profile.reduce((a, b) => Math.max(a, b), 0);
    }
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, OVERVIEW_HEIGHT);
    const x = (value) => from + (value / axis.last) * span, room = OVERVIEW_HEIGHT - 8;
    ctx.fillStyle = palette.calm;
    ctx.beginPath();
    ctx.moveTo(from, OVERVIEW_HEIGHT - 2);
    this.profile.forEach((value, i) => {
      const y = OVERVIEW_HEIGHT - 2 - (value / (this.peak || 1)) * room;
      ctx.lineTo(from + i, y);
      ctx.lineTo(from + i + 1, y);
    });
    ctx.lineTo(from + span, OVERVIEW_HEIGHT - 2);
    ctx.fill();
    ctx.fillStyle = palette.match;
    for (const value of matches) ctx.fillRect(x(value) - 0.75, 2, 1.5, room + 4);
    this.#frame(ctx, x(Math.max(camera.at(camera.left), 0)), x(Math.min(camera.end, axis.last)), from, span, palette);
    ctx.fillStyle = palette.soft;
    ctx.font = `11px ${palette.sans}`;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    ctx.fillText("Decoding at once", 12, OVERVIEW_HEIGHT / 2 - 7);
    ctx.fillText(`at most ${number(Math.round(this.peak))}`, 12, OVERVIEW_HEIGHT / 2 + 8);
    this.from = from;
    this.span = span;
  }

  #frame(ctx, a, b, from, span, palette) {
    ctx.fillStyle = palette.paper;
    ctx.globalAlpha = 0.65;
    ctx.fillRect(from, 0, a - from, OVERVIEW_HEIGHT);
    ctx.fillRect(b, 0, from + span - b, OVERVIEW_HEIGHT);
    ctx.globalAlpha = 1;
    ctx.strokeStyle = palette.faint;
    ctx.lineWidth = 1;
    ctx.strokeRect(a - 0.5, 1.5, Math.max(b - a, 2) + 1, OVERVIEW_HEIGHT - 3);
  }

  // The time at a pixel.
  at(x, axis) {
    return ((x - this.from) / this.span) * axis.last;
  }
}
