// Lines between lanes: forks, spawns, joins, merges and live views; lifelines, labels and marks.

const DASH = 6;

class Links {
  constructor(lanes) {
    Object.assign(this, { lanes, ...lanes });
    this.unit = this.axis.unit;
  }

  // Below the bars.
  drawBehind(ctx) {
    this.#lifelines(ctx);
    this.#forks(ctx);
    this.#joins(ctx);
  }

  // Above the bars.
  drawFront(ctx) {
    this.#watches(ctx);
    this.#pruned(ctx);
  }

  x(moment) {
    return this.camera.x(moment[this.unit] ?? this.axis.last);
  }

  // Where the branch's last token or tool ends.
  written(branch) {
    return this.camera.x(this.axis.worked[branch]);
  }

  #lifelines(ctx) {
    ctx.strokeStyle = this.palette.line;
    ctx.lineWidth = 1;
    ctx.beginPath();
    for (let lane = this.lanes.firstLane; lane <= this.lanes.lastLane; lane++) {
      const branch = this.model.order[lane], y = Math.round(this.lanes.middle(branch)) + 0.5;
      const begin = this.x(this.model.branches[branch].begin), end = this.written(branch);
      if (begin > this.camera.width || end < this.camera.left || end - begin < 2) continue;
      ctx.moveTo(Math.max(begin, this.camera.left), y);
      ctx.lineTo(Math.min(end, this.camera.width), y);
    }
    ctx.stroke();
  }

  // One trunk for all children that a branch opened at the same place.
  #forks(ctx) {
    for (const isFork of [true, false]) {
      const path = new Path2D();
      this.model.children.forEach((children, parent) => {
        const trunks = new Map();
        for (const child of children) {
          const branch = this.model.branches[child], x = Math.round(this.x(branch.begin)) - 8.5;
          if ((branch.origin === "fork") !== isFork || !this.#isInSight(x)) continue;
          trunks.set(x, Math.max(trunks.get(x) ?? 0, this.lanes.middle(child)));
          this.#tick(path, x, x + 8, this.lanes.middle(child));
        }
        const top = this.lanes.middle(parent) + this.lanes.bar / 2;
        for (const [x, bottom] of trunks) this.#trunk(path, x, top, bottom);
      });
      ctx.strokeStyle = this.palette.fork;
      ctx.lineWidth = 1.2;
      ctx.setLineDash(isFork ? [] : [DASH / 2, DASH / 2]);
      ctx.stroke(path);
    }
    ctx.setLineDash([]);
  }

  #joins(ctx) {
    const found = new Path2D(), lost = new Path2D(), merged = new Path2D();
    for (const join of this.model.joins) {
      const x = Math.round(this.x(join.at)) + 3.5;
      let bottom = [0, 0];
      for (const child of join.children) {
        const isFound = join.found.includes(child), y = this.lanes.middle(child);
        const path = !isFound ? lost : join.merge ? merged : found;
        this.#tick(path, this.written(child) + 2, x, y);
        if (this.model.lane[child] > this.model.lane[join.branch]) bottom[+isFound] = Math.max(bottom[+isFound], y);
      }
      if (!this.#isInSight(x)) continue;
      const top = this.lanes.middle(join.branch) + this.lanes.bar / 2;
      if (bottom[0] > bottom[1]) this.#trunk(lost, x, Math.max(bottom[1], top), bottom[0]);
      if (bottom[1]) this.#arrow(join.merge ? merged : found, x, top, bottom[1]);
    }
    ctx.lineWidth = 1;
    ctx.strokeStyle = this.palette.lost;
    ctx.setLineDash([1.5, 3]);
    ctx.stroke(lost);
    ctx.strokeStyle = this.palette.join;
    ctx.lineWidth = 1.6;
    ctx.setLineDash([DASH / 2, DASH / 2]);
    ctx.stroke(found);
    ctx.setLineDash([]);
    ctx.stroke(merged);
  }

  #watches(ctx) {
    const { camera, lanes } = this, path = new Path2D();
    const batch = new Batch();
    for (const watch of this.model.watches) {
      const x0 = this.x(watch.begin), x1 = Math.max(this.x(watch.end), x0 + 2);
      if (x1 < camera.left || x0 > camera.width) continue;
      const y = lanes.y(watch.branch) + lanes.bar, from = Math.max(x0, camera.left);
      if (y > AXIS_HEIGHT && y < this.height + 4) {
        batch.add(this.palette.live, from, y - 0.5, Math.min(x1, camera.width) - from, camera.row >= 10 ? 2 : 1);
      }
      if (!this.#isInSight(x0)) continue;
      const x = Math.round(x0) + 3.5;
      const [top, bottom] = [lanes.middle(watch.watched), lanes.middle(watch.branch)].sort((a, b) => a - b);
      this.#trunk(path, x, top, bottom);
      batch.add(this.palette.live, x - 3, y - 5, 6, 6);
    }
    batch.draw(ctx);
    ctx.strokeStyle = this.palette.live;
    ctx.lineWidth = 1.2;
    ctx.setLineDash([1.5, 2.5]);
    ctx.stroke(path);
    ctx.setLineDash([]);
  }

  #pruned(ctx) {
    const size = Math.min(this.lanes.bar / 2, 5), path = new Path2D();
    for (let lane = this.lanes.firstLane; lane <= this.lanes.lastLane; lane++) {
      const branch = this.model.order[lane], { pruned, error } = this.model.branches[branch];
      const x = this.written(branch) + size + 3, y = this.lanes.middle(branch);
      if ((pruned === null && error === null) || x < this.camera.left) continue;
      path.moveTo(x - size, y - size);
      path.lineTo(x + size, y + size);
      path.moveTo(x - size, y + size);
      path.lineTo(x + size, y - size);
    }
    ctx.strokeStyle = this.palette.pruned;
    ctx.lineWidth = 2;
    ctx.stroke(path);
  }

  #isInSight(x) {
    return x >= this.camera.left - 12 && x <= this.camera.width + 12;
  }

  #tick(path, x0, x1, y) {
    const from = Math.max(x0, this.camera.left), to = Math.min(x1, this.camera.width);
    if (y < AXIS_HEIGHT || y > this.height || to <= from) return;
    path.moveTo(from, Math.round(y) + 0.5);
    path.lineTo(to, Math.round(y) + 0.5);
  }

  // A vertical line, as far as it is in sight; dashes stay where they are when it scrolls.
  #trunk(path, x, top, bottom) {
    const first = top + Math.max(Math.floor((AXIS_HEIGHT - top) / DASH), 0) * DASH;
    const last = Math.min(bottom, this.height);
    if (last <= first) return;
    path.moveTo(x, first);
    path.lineTo(x, last);
  }

  #arrow(path, x, top, bottom) {
    this.#trunk(path, x, top, bottom);
    if (top < AXIS_HEIGHT || top > this.height || this.camera.row < 10) return;
    path.moveTo(x - 3, top + 4.5);
    path.lineTo(x, top + 1);
    path.lineTo(x + 3, top + 4.5);
  }
}
