// Draws the image with its masks, points and boxes, and what the pointer and the keys are about to set.
import { tinted } from "./masks.js";

const RADIUS = 7; // CSS pixels of a point

// Whether there was an image to draw.
export function drawScene({ element, widget, editor, viewport, pointer, keys, hasFocus }) {
  const { clientWidth, clientHeight } = element;
  if (!clientWidth || !clientHeight) return false;
  const context = prepare(element);
  if (!widget.image) return false;
  const frame = viewport.frame;
  const into = [frame.left, frame.top, frame.width, frame.height];
  context.imageSmoothingEnabled = frame.width < editor.size[0] * 3;
  context.drawImage(widget.image, ...into);
  context.imageSmoothingEnabled = true;
  const { state, active, activeObject } = editor;
  const objects = [...state.objects.entries()].sort(([i], [j]) => (i === active) - (j === active));
  for (const [, object] of objects) {
    const mask = object.on && widget.maskOf(object);
    if (mask) drawMask(context, mask, object.colour, into);
  }
  for (const [i, object] of objects) drawPrompts(context, viewport, object, i === active);
  const colour = activeObject?.colour ?? "#ffffff";
  if (pointer.box) drawBox(context, ...pointer.box, colour);
  if (keys.box) drawBox(context, ...keys.box.map((share) => viewport.fromShare(share)), colour);
  if (keys.cursor && hasFocus) drawCursor(context, viewport.fromShare(keys.cursor));
  return true;
}

// An empty context in CSS pixels, as sharp as the screen.
function prepare(canvas) {
  const { clientWidth, clientHeight } = canvas;
  const shown = canvas.getBoundingClientRect().width / clientWidth || 1;
  const sharp = (window.devicePixelRatio || 1) * Math.min(2, Math.max(1, shown));
  const [width, height] = [Math.round(clientWidth * sharp), Math.round(clientHeight * sharp)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(sharp, 0, 0, sharp, 0, 0);
  context.clearRect(0, 0, clientWidth, clientHeight);
  return context;
}

function drawMask(context, mask, colour, into) {
  const [fill, edge] = tinted(mask, colour);
  context.globalAlpha = 0.5;
  context.drawImage(fill, ...into);
  context.globalAlpha = 1;
  context.drawImage(edge, ...into);
}

function drawPrompts(context, viewport, object, active) {
  context.globalAlpha = object.on ? 1 : 0.4;
  if (object.box) {
    const a = viewport.fromState({ x: object.box[0], y: object.box[1] });
    const b = viewport.fromState({ x: object.box[2], y: object.box[3] });
    drawBox(context, a, b, object.colour);
    if (active) drawMark(context, { x: b.x, y: a.y }, "#1d1d1d", "x", RADIUS);
  }
  const radius = active ? RADIUS : RADIUS - 2;
  for (const point of object.positive) drawMark(context, viewport.fromState(point), object.colour, "+", radius);
  for (const point of object.negative) drawMark(context, viewport.fromState(point), "#c22f2f", "-", radius);
  context.globalAlpha = 1;
}

function drawBox(context, a, b, colour) {
  for (const [width, stroke, dash] of [[3, "#000000a0", []], [1.5, colour, [6, 4]]]) {
    context.lineWidth = width;
    context.strokeStyle = stroke;
    context.setLineDash(dash);
    context.strokeRect(Math.min(a.x, b.x), Math.min(a.y, b.y), Math.abs(a.x - b.x), Math.abs(a.y - b.y));
  }
  context.setLineDash([]);
}

// A disc with a sign in it: + on the object, - outside, x to remove.
function drawMark(context, { x, y }, colour, sign, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fillStyle = colour;
  context.fill();
  context.lineWidth = 3.5;
  context.strokeStyle = "#000000b0";
  context.stroke();
  context.lineWidth = 2;
  context.strokeStyle = "#ffffff";
  context.stroke();
  const arm = radius * 0.5;
  context.beginPath();
  if (sign === "x") {
    context.moveTo(x - arm, y - arm);
    context.lineTo(x + arm, y + arm);
    context.moveTo(x - arm, y + arm);
    context.lineTo(x + arm, y - arm);
  } else {
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    if (sign === "+") {
      context.moveTo(x, y - arm);
      context.lineTo(x, y + arm);
    }
  }
  context.strokeStyle = sign === "+" ? "#000000" : "#ffffff";
  context.stroke();
}

function drawCursor(context, { x, y }) {
  for (const [width, colour] of [[4, "#000000"], [1.5, "#ffffff"]]) {
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + dx * 4, y + dy * 4);
      context.lineTo(x + dx * 14, y + dy * 14);
    }
    context.stroke();
  }
}
