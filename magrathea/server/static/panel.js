// The panel: figures, the curve of the reward, start states.

const MAX_POINTS = 160;

export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

export function number(value) {
  const rounded = Math.round(value * 100) / 100;
  return String(Object.is(rounded, -0) ? 0 : rounded).replace("-", "−");
}

export class Figures {
  constructor() {
    this.elements = Object.fromEntries(
      ["rate", "passes", "time", "certainty", "step", "dropped", "reward"].map((name) => [name, document.getElementById(`figure-${name}`)]),
    );
    this.line = document.querySelector("#spark polyline");
    this.points = [];
  }

  show(frame) {
    const { rate, passes, time, certainty, step, dropped, reward } = this.elements;
    const began = frame.step > 0;
    text(rate, frame.rate ? frame.rate.toFixed(1) : "–");
    text(passes, began ? String(frame.num_passes) : "–");
    text(time, frame.model_ms ? `${frame.model_ms.toFixed(frame.model_ms < 10 ? 1 : 0)} ms` : "–");
    text(certainty, began && frame.parts.uncertainty ? `${(100 * meanCertainty(frame.parts.uncertainty)).toFixed(1)}%` : "–");
    text(step, String(frame.step));
    text(dropped, String(frame.dropped));
    text(reward, number(frame.total_reward));
    this.curve(frame.step, frame.total_reward);
  }

  curve(step, total) {
    const last = this.points.at(-1);
    if (last && last[0] === step) return;
    if (last && step < last[0]) this.points = [];
    this.points.push([step, total]);
    if (this.points.length > MAX_POINTS) this.points.shift();
    const values = this.points.map((point) => point[1]);
    const low = Math.min(0, ...values);
    const high = Math.max(low + 1, ...values);
    const width = Math.max(1, this.points.length - 1);
    const points = values.map((value, index) => `${((160 * index) / width).toFixed(1)},${(33 - (30 * (value - low)) / (high - low)).toFixed(1)}`);
    this.line.setAttribute("points", points.join(" "));
  }
}

function meanCertainty(part) {
  let sum = 0;
  for (const value of part.data) sum += value;
  return 1 - sum / part.data.length / 255;
}

// Thumbnails of start states; the first lets the seed choose.
export function fillStarts(container, world, choose) {
  const radio = (value, content, name) => {
    const option = document.createElement("label");
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "start", value });
    input.addEventListener("change", () => choose(value === "" ? null : Number(value)));
    input.setAttribute("aria-label", name);
    option.append(input, content);
    container.append(option);
    return input;
  };
  const any = Object.assign(document.createElement("span"), { className: "any", textContent: "Any" });
  radio("", any, "Any start state, chosen by the seed").checked = true;
  for (let index = 0; index < world.num_starts; index += 1) {
    const source = `/api/worlds/${encodeURIComponent(world.id)}/starts/${index}.png`;
    const image = Object.assign(document.createElement("img"), { loading: "lazy", alt: "", width: 56, height: 56, src: source });
    radio(String(index), image, `Start state ${index + 1}`);
  }
}
