// Sliders for the numbers of an action, and the gamepad: its sticks move the sliders, or press the buttons of the arrow
// keys where there are none; its buttons press those of the world.

import { arrowOf, label, mainOf } from "./keys.js";

const DEAD_ZONE = 0.15;
const ARROW_BUTTONS = { ArrowUp: 12, ArrowDown: 13, ArrowLeft: 14, ArrowRight: 15 }; // of the standard mapping
const ARROW_STICK = { ArrowUp: [1, -1], ArrowDown: [1, 1], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const FACE_BUTTONS = [0, 1, 2, 3, 5, 4, 7, 6, 9, 8]; // in the order in which they are given to the world's buttons

export class Sliders {
  // axes: those of the world; move(index, value or null) is told of each change
  constructor(axes, place, move) {
    this.axes = axes;
    this.move = move;
    this.sent = axes.map(() => null);
    this.inputs = axes.map((axis) => this.slider(axis));
    place.replaceChildren(...this.inputs.map((input) => input.parentElement));
    place.hidden = !axes.length;
  }

  slider(axis) {
    const name = Object.assign(document.createElement("span"), { textContent: label(axis.name) });
    const input = Object.assign(document.createElement("input"), { type: "range", min: axis.low, max: axis.high, step: "any", value: axis.neutral });
    input.addEventListener("input", () => this.set(axis.index, input.valueAsNumber));
    input.addEventListener("dblclick", () => this.set(axis.index, null));
    const line = Object.assign(document.createElement("label"), { className: "slider", title: "A double click puts it back" });
    line.append(name, input);
    return input;
  }

  // null: back to where it rests
  set(index, value) {
    const axis = this.axes[index];
    const wanted = value === null || value === axis.neutral ? null : Math.round(value * 1000) / 1000;
    this.inputs[index].value = wanted ?? axis.neutral;
    if (wanted === this.sent[index]) return;
    this.sent[index] = wanted;
    this.move(index, wanted);
  }

  // A stick from -1 to 1 on a slider from its low to its high value, 0 where it rests.
  setShare(index, share) {
    const { low, high, neutral } = this.axes[index];
    const limit = share < 0 ? low : high;
    this.set(index, Math.abs(share) < DEAD_ZONE || limit === neutral ? null : neutral + Math.abs(share) * (limit - neutral));
  }

  rest() {
    this.sent.fill(null);
    this.axes.forEach((axis, index) => (this.inputs[index].value = axis.neutral));
  }
}

// Which buttons of a standard gamepad press which of the world's.
export function gamepadMap(buttons) {
  const map = new Map();
  for (const [key, pressed] of Object.entries(ARROW_BUTTONS)) {
    const found = buttons.find((button) => arrowOf(button) === key);
    if (found) map.set(pressed, found.index);
  }
  const main = mainOf(buttons);
  const others = buttons.filter((button) => button !== main && !arrowOf(button) && button.keys.length);
  [main, ...others].filter(Boolean).slice(0, FACE_BUTTONS.length).forEach((button, place) => map.set(FACE_BUTTONS[place], button.index));
  return map;
}

export function followGamepad(buttons, keys, sliders) {
  const map = gamepadMap(buttons);
  const held = new Map(); // what of the gamepad is held -> the world's button
  const hold = (source, index, on) => {
    if (on === held.has(source)) return;
    if (on) {
      held.set(source, index);
      keys.press(source, index);
    } else {
      held.delete(source);
      keys.lift(source);
    }
  };
  const read = () => {
    const pad = [...navigator.getGamepads()].find((one) => one?.connected);
    for (const [number, index] of map) hold(`gamepad ${number}`, index, Boolean(pad?.buttons[number]?.pressed));
    if (sliders.axes.length) {
      const triggers = (pad?.buttons[7]?.value ?? 0) - (pad?.buttons[6]?.value ?? 0);
      const sticks = pad ? [pad.axes[0] ?? 0, -(pad.axes[1] ?? 0) || triggers, pad.axes[2] ?? 0, -(pad.axes[3] ?? 0)] : [];
      sticks.slice(0, sliders.axes.length).forEach((share, index) => moveBy(index, share));
    } else {
      for (const [key, [axis, sign]] of Object.entries(ARROW_STICK)) {
        const found = buttons.find((button) => arrowOf(button) === key);
        if (found) hold(`stick ${key}`, found.index, (pad?.axes[axis] ?? 0) * sign > 0.5);
      }
    }
    if (pad) requestAnimationFrame(read);
  };
  const moved = new Set(); // sliders that a stick holds: one that rests leaves a slider to the pointer
  const moveBy = (index, share) => {
    if (Math.abs(share) < DEAD_ZONE && !moved.has(index)) return;
    if (Math.abs(share) < DEAD_ZONE) moved.delete(index);
    else moved.add(index);
    sliders.setShare(index, share);
  };
  window.addEventListener("gamepadconnected", () => requestAnimationFrame(read));
  window.addEventListener("gamepaddisconnected", read);
}
