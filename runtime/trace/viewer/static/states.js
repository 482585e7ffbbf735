// States that branches went through: bands above their bars, each as long as the state lasted.

const STATE_COLOURS = 8;
const STATE_CHAR = 5.6;
const LABELLED = 9;  // Height in pixels from which a band bears its state's name.

class States {
  constructor(list, numBranches) {
    this.list = list;
    this.of = Array.from({ length: numBranches }, () => []);
    list.forEach(({ branch }, i) => this.of[branch].push(i));
    this.names = [...new Set(list.map(({ state }) => state))];
    this.next = list.map(() => null);
    // How many before it lasted no step, so that their marks do not cover each other.
    this.rank = new Uint16Array(list.length);
    for (const states of this.of) {
      states.forEach((i, n) => {
        this.next[i] = states[n + 1] ?? null;
        const before = states[n - 1];
        if (before !== undefined && list[before].at[STEPS] === list[i].at[STEPS]) this.rank[i] = this.rank[before] + 1;
      });
    }
  }

  colour(i) {
    return this.names.indexOf(this.list[i].state) % STATE_COLOURS;
  }

  // From its beginning to the next one's, or until the branch was at work.
  stretch(i, axis) {
    const { at, branch } = this.list[i], begin = at[axis.unit], next = this.next[i];
    const end = next === null ? axis.worked[branch] : this.list[next].at[axis.unit];
    return [begin, Math.max(begin, end)];
  }

  describe(i, axis) {
    const [begin, end] = this.stretch(i, axis);
    const lasted = axis.unit === SECONDS ? seconds(end - begin) : plural(end - begin, "step");
    return [this.list[i].state, `${lasted} from ${axis.unit === SECONDS ? seconds(begin) : number(begin)}`];
  }

  box(scene, i) {
    const { camera, axis } = scene, [begin, end] = this.stretch(i, axis);
    const shift = axis.unit === STEPS ? this.rank[i] * MARK : 0;
    const x = camera.x(begin) + shift;
    // Nothing follows the last one: it may take the room its name needs.
    const least = this.next[i] === null ? this.list[i].state.length * STATE_CHAR + 8 : MARK - 1;
    const width = Math.max(camera.x(end) - x - 1, least);
    return { x, y: laneTop(scene, this.list[i].branch) - camera.band, width, height: Math.max(camera.band - 1, 1) };
  }

  // The state of a branch at a point; undefined if there is none.
  at(scene, branch, x, y) {
    return this.of[branch].findLast((i) => {
      const box = this.box(scene, i);
      return x >= box.x && x <= box.x + box.width + 1 && y >= box.y - 1 && y <= box.y + box.height + 1;
    });
  }

  draw(ctx, lanes) {
    const { camera, palette, model } = lanes, batch = new Batch(), labels = [];
    if (!camera.band) return;
    for (let lane = lanes.firstLane; lane <= lanes.lastLane; lane++) {
      for (const i of this.of[model.order[lane]]) {
        const { x, y, width, height } = this.box(lanes, i);
        if (x > lanes.width || x + width < camera.left) continue;
        const from = Math.max(x, camera.left), to = Math.min(x + width, lanes.width);
        batch.add(palette.states[this.colour(i)], from, y, to - from, height);
        const text = clip(this.list[i].state, Math.floor((to - from - 5) / STATE_CHAR));
        if (camera.band >= LABELLED && text.length > 2) labels.push([text, from + 3, y + height / 2 + 0.5]);
      }
    }
    batch.draw(ctx);
    ctx.font = `9.5px ${palette.sans}`;
    ctx.textAlign = "left";
    ctx.textBaseline = "middle";
    ctx.fillStyle = palette.ink;
    for (const [text, x, y] of labels) ctx.fillText(text, x, y);
  }
}
