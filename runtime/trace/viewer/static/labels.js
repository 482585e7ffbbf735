// What stands around the lanes: the time axis with its grid, the labels at the left, the selected lane's band.

const INDENT = 12, MOST_INDENT = 6, MOST_WIDTH = 300, LABEL_FONT = 12;
const SIGNS = { good: "join", quiet: "faint", bad: "pruned", warn: "injected" };

function labelWidth(ctx, model, palette) {
  let longest = 0;
  ctx.font = `${LABEL_FONT}px ${palette.sans}`;
  for (let i = 0; i < model.branches.length; i++) {
    const { width } = ctx.measureText(clip(model.label(i), MOST_WIDTH));
    longest = Math.max(longest, width + Math.min(model.depth[i], MOST_INDENT) * INDENT);
  }
  return Math.round(Math.min(Math.max(longest + 78, 130), MOST_WIDTH));
}

function drawGrid(ctx, { camera, palette, axis, width, height }) {
  ctx.font = `11px ${palette.sans}`;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.lineWidth = 1;
  const grid = new Path2D();
  for (const { value, text } of ticks(camera, axis.unit === STEPS ? 1 : 0)) {
    const x = Math.round(camera.x(value)) + 0.5;
    if (x < camera.left || x > width - 8) continue;
    grid.moveTo(x, AXIS_HEIGHT - 5);
    grid.lineTo(x, height);
    ctx.fillStyle = palette.soft;
    ctx.fillText(axis.unit === SECONDS ? `${text} s` : text, x, AXIS_HEIGHT / 2 - 2);
  }
  ctx.strokeStyle = palette.line;
  ctx.globalAlpha = 0.6;
  ctx.stroke(grid);
  ctx.globalAlpha = 1;
}

function drawEmpty(ctx, { camera, palette, width, height }) {
  ctx.font = `14px ${palette.sans}`;
  ctx.textAlign = "center";
  ctx.textBaseline = "middle";
  ctx.fillStyle = palette.soft;
  ctx.fillText("No branch was opened.", (camera.left + width) / 2, height / 3);
}

function drawBand(ctx, lanes, selection, colour) {
  if (!selection) return;
  const { camera, model } = lanes;
  ctx.fillStyle = colour;
  ctx.fillRect(camera.left, AXIS_HEIGHT + model.lane[selection.branch] * camera.row - lanes.top, lanes.width, camera.row);
}

function drawLabels(ctx, lanes, selection) {
  const { model, camera, palette, top, height } = lanes, { left, row } = camera;
  ctx.fillStyle = palette.panel;
  ctx.fillRect(0, 0, left, height);
  ctx.fillStyle = palette.line;
  ctx.fillRect(left - 1, 0, 1, height);
  ctx.save();
  ctx.beginPath();
  ctx.rect(0, AXIS_HEIGHT, left - 1, height);
  ctx.clip();
  ctx.textBaseline = "middle";
  for (let lane = lanes.firstLane; lane <= lanes.lastLane; lane++) {
    const branch = model.order[lane], y = AXIS_HEIGHT + lane * row - top, middle = y + row / 2;
    if (selection?.branch === branch) {
      ctx.fillStyle = palette.select;
      ctx.fillRect(0, y, left - 1, row);
    }
    const x = 10 + Math.min(model.depth[branch], MOST_INDENT) * INDENT;
    drawSign(ctx, palette, statusClass(model.status(branch)), row < LABEL_ROW ? left - 8 : x, middle, row);
    if (row < LABEL_ROW) continue;
    const tokens = number(model.sampledOf[branch]);
    ctx.font = `${row < 15 ? 10 : LABEL_FONT}px ${palette.sans}`;
    ctx.textAlign = "right";
    ctx.fillStyle = palette.faint;
    ctx.fillText(tokens, left - 10, middle + 0.5);
    ctx.textAlign = "left";
    ctx.fillStyle = palette.ink;
    const room = left - 18 - x - 10 - ctx.measureText(tokens).width;
    ctx.fillText(fitted(ctx, model.label(branch), room), x + 10, middle + 0.5);
  }
  ctx.restore();
  ctx.fillStyle = palette.soft;
  ctx.font = `11px ${palette.sans}`;
  ctx.textAlign = "right";
  ctx.fillText("sampled", left - 10, AXIS_HEIGHT / 2 - 1);
  ctx.textAlign = "left";
  ctx.fillText("branch", 20, AXIS_HEIGHT / 2 - 1);
}

// How a branch ended: a filled dot, a ring if it ended as most do.
function drawSign(ctx, palette, kind, x, y, row) {
  const radius = Math.min(row / 2 - 0.5, 3.2);
  ctx.beginPath();
  ctx.arc(x, y, Math.max(radius, 0.8), 0, 2 * Math.PI);
  ctx.fillStyle = ctx.strokeStyle = palette[SIGNS[kind]];
  ctx.lineWidth = 1.3;
  if (kind === "quiet" && radius > 2) ctx.stroke();
  else ctx.fill();
}
