// Tools that branches used: bars by the clock; marks on the critical path, where they take no step.

const TOOL_COLOURS = { ok: "join", failed: "pruned", interrupted: "soft" };
const MARK = 4;  // Half the width of a mark.

class Tools {
  constructor(list, numBranches) {
    this.list = list;
    this.of = Array.from({ length: numBranches }, () => []);
    list.forEach(({ branch }, i) => this.of[branch].push(i));
    this.slot = new Uint16Array(list.length);
    this.slots = new Uint16Array(list.length);
    this.rank = new Uint16Array(list.length);
    for (const tools of this.of) this.#arrange(tools);
  }

  // Tools of one branch that ran at once share its bar: `slot` of `slots`. `rank`: how many came before at its step.
  #arrange(tools) {
    let group = [], until = -Infinity, step = null, rank = 0;
    const close = () => {
      const slots = Math.max(0, ...group.map((i) => this.slot[i])) + 1;
      for (const i of group) this.slots[i] = slots;
    };
    let ends = [];
    for (const i of tools) {
      const { begin, end } = this.list[i];
      if (begin[SECONDS] >= until) {
        close();
        [group, ends] = [[], []];
      }
      const free = ends.findIndex((last) => last <= begin[SECONDS]);
      this.slot[i] = free < 0 ? ends.length : free;
      ends[this.slot[i]] = end[SECONDS];
      group.push(i);
      until = Math.max(until, end[SECONDS]);
      rank = begin[STEPS] === step ? rank + 1 : 0;
      step = begin[STEPS];
      this.rank[i] = rank;
    }
    close();
  }

  // The name and those of the arguments that are short.
  title(i) {
    const { tool, arguments: all } = this.list[i];
    const short = all.filter(([, value]) => value.length <= 40 && !value.includes("\n"));
    return [tool, ...short.map(([name, value]) => `${name}=${value}`)].join(" ");
  }

  describe(i) {
    const { outcome, begin, end, output } = this.list[i];
    return [this.title(i), outcome, seconds(end[SECONDS] - begin[SECONDS]), lastLine(output)].filter(Boolean);
  }

  // Where a tool is drawn.
  box(scene, i) {
    const { camera, axis } = scene, { branch, begin, end } = this.list[i];
    const y = laneTop(scene, branch), { bar } = camera, x = camera.x(begin[axis.unit]);
    if (axis.unit === STEPS) {
      const size = Math.min(MARK, bar / 2);
      return { x: x - size + this.rank[i] * 2 * MARK, y: y + bar - size, width: 2 * size, height: 2 * size };
    }
    const rows = Math.min(this.slots[i], Math.max(Math.floor(bar / 4), 1)), height = bar / rows;
    const width = Math.max(camera.x(end[axis.unit]) - x, 2);
    return { x, y: y + (this.slot[i] % rows) * height, width, height: height - (rows > 1 ? 1 : 0) };
  }

  // The tool of a branch at a point, the last one drawn; undefined if there is none.
  at(scene, branch, x, y) {
    return this.of[branch].findLast((i) => {
      const box = this.box(scene, i);
      return x >= box.x - 1 && x <= box.x + box.width + 1 && y >= box.y - 1 && y <= box.y + box.height + 1;
    });
  }

  draw(ctx, lanes) {
    ctx.font = `${TOKEN_FONT} ${lanes.palette.mono}`;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    ctx.lineWidth = 1;
    for (let lane = lanes.firstLane; lane <= lanes.lastLane; lane++) {
      for (const i of this.of[lanes.model.order[lane]]) {
        const box = this.box(lanes, i);
        if (box.x > lanes.width || box.x + box.width < lanes.camera.left) continue;
        if (lanes.axis.unit === STEPS) this.#mark(ctx, lanes, i, box);
        else this.#bar(ctx, lanes, i, box);
      }
    }
  }

  #mark(ctx, { palette }, i, { x, y, width, height }) {
    ctx.beginPath();
    ctx.moveTo(x, y + height / 2);
    ctx.lineTo(x + width / 2, y);
    ctx.lineTo(x + width, y + height / 2);
    ctx.lineTo(x + width / 2, y + height);
    ctx.closePath();
    ctx.fillStyle = palette[TOOL_COLOURS[this.list[i].outcome]];
    ctx.fill();
    ctx.strokeStyle = palette.paper;
    ctx.stroke();
  }

  // A frame with a light ground, filled if it is too small for that.
  #bar(ctx, { palette, camera, width: sceneWidth }, i, { x, y, width, height }) {
    const from = Math.max(x, camera.left - 2), to = Math.min(x + width, sceneWidth + 2);
    const isFrame = width >= 5 && height >= 4;
    ctx.fillStyle = palette.paper;
    ctx.fillRect(from, y, to - from, height);
    ctx.fillStyle = ctx.strokeStyle = palette[TOOL_COLOURS[this.list[i].outcome]];
    ctx.globalAlpha = isFrame ? 0.2 : 1;
    ctx.fillRect(from, y, to - from, height);
    ctx.globalAlpha = 1;
    if (!isFrame) return;
    ctx.strokeRect(from + 0.5, y + 0.5, to - from - 1, height - 1);
    const left = Math.max(from, camera.left), chars = Math.floor((Math.min(to, sceneWidth) - left - 8) / CHAR);
    if (height < 11 || chars < 3) return;
    ctx.fillStyle = palette.ink;
    ctx.fillText(clip(this.title(i), chars), left + 4, y + height / 2 + 0.5);
  }
}
