// The world's agent: lets it play, shows what it expects and imagines, and what its learning measured.

import { keyCap, label } from "./keys.js";
import { number, text } from "./panel.js";
import { drawPicture } from "./picture.js";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const PAUSE_FRAMES = 4; // that a future stands at its end before it begins again
const CHART = { width: 240, height: 92, left: 4, right: 4, top: 8, bottom: 8 };
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class AgentPanel {
  // send(message)
  constructor(send) {
    this.send = send;
    this.playing = false;
    this.futures = []; // { canvas, pictures } that are shown
    this.shownAt = 0;
    $("agent-play").addEventListener("click", () => this.toggle());
  }

  setUp(world, key) {
    this.has = Boolean(world.agent);
    this.fps = world.fps;
    $("agent").hidden = $("agent-play").hidden = !this.has;
    if (!this.has) return;
    if (key) $("agent-play-key").replaceWith(Object.assign(keyCap(key), { id: "agent-play-key" }));
    $("agent-card").hidden = !world.agent.has_card;
    $("agent-card").href = `/card/${encodeURIComponent(world.id)}?of=agent`;
    this.showLearning(world.agent);
  }

  toggle() {
    if (this.has) this.send({ type: "agent", on: !this.playing });
  }

  // A frame of the dream.
  show(frame) {
    if (!this.has) return;
    const ended = frame.state === "ended" || frame.state === "failed";
    this.playing = frame.agent && !ended;
    $("agent-play").setAttribute("aria-pressed", String(this.playing));
    text($("agent-play-text"), this.playing ? "Take over" : "Let the agent play");
    text($("agent-note"), this.playing ? "The agent plays. Any key of the world takes over." : "It sees what you see, and any key of the world takes over again.");
    text($("agent-value"), this.playing && frame.value !== null ? number(frame.value) : "–");
    if (!frame.agent || ended) this.showFutures(null);
  }

  // The best futures: moving pictures, which begin anew until others take their place.
  showFutures(frame) {
    const futures = frame ? frame.futures : [];
    $("futures").hidden = futures.length === 0;
    if (frame) text($("futures-step"), `from step ${frame.step}`);
    const place = $("futures-list");
    while (place.children.length > futures.length) place.lastChild.remove();
    while (place.children.length < futures.length) place.append(newFuture());
    this.futures = futures.map((future, index) => {
      const [canvas, caption] = place.children[index].children;
      const name = label(future.action);
      caption.replaceChildren(Object.assign(document.createElement("b"), { textContent: name }), ` ${number(future.total)}`);
      caption.title = `The rewards that it expects, beginning with “${name}”${future.ends ? "; the episode ends" : ""}`;
      caption.classList.toggle("ends", future.ends);
      const pictures = split(frame.parts[`future${index}`], frame.num_pictures[index]);
      drawPicture(canvas, pictures[still.matches ? pictures.length - 1 : 0]);
      return { canvas, pictures };
    });
    this.shownAt = performance.now();
    if (futures.length && !this.running && !still.matches) this.run();
  }

  run() {
    this.running = this.futures.length > 0;
    if (!this.running) return;
    const longest = Math.max(...this.futures.map(({ pictures }) => pictures.length)) + PAUSE_FRAMES;
    const at = Math.floor(((performance.now() - this.shownAt) / 1000) * this.fps) % longest;
    if (at !== this.at) for (const { canvas, pictures } of this.futures) drawPicture(canvas, pictures[Math.min(at, pictures.length - 1)]);
    this.at = at;
    requestAnimationFrame(() => this.run());
  }

  // The return of the same policy in dreams and in reality, round after round.
  showLearning({ learned, measured }) {
    const last = measured ?? learned.at(-1);
    $("agent-learning").hidden = !last;
    if (!last) return;
    const rounds = learned.length ? learned : [last];
    drawChart($("agent-chart"), rounds);
    text($("agent-dream"), number(last.dream_return));
    text($("agent-real"), number(last.real_return));
    const gap = (last.dream_return - last.real_return) / Math.max(Math.abs(last.real_return), 1e-6);
    text($("agent-gap"), `${gap >= 0 ? "+" : "−"}${Math.round(100 * Math.abs(gap))}%`);
    text($("agent-rounds"), rounds.length > 1 ? `Over ${rounds.length} rounds, up to ${rounds.at(-1).real_steps.toLocaleString("en")} real steps` : `After ${last.real_steps.toLocaleString("en")} real steps`);
    const words = gap > 0.15 ? "Its dreams promise more than reality gives: it uses their mistakes." : gap < -0.15 ? "Reality gives more than its dreams do." : "Its dreams give about what reality gives.";
    text($("agent-verdict"), words);
  }
}

function newFuture() {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "A future that the agent imagines");
  figure.append(canvas, document.createElement("figcaption"));
  return figure;
}

function split(part, count) {
  const [height, width] = part.shape;
  const size = part.data.length / count;
  return Array.from({ length: count }, (_, index) => ({ shape: [height / count, width, 3], data: part.data.subarray(index * size, (index + 1) * size) }));
}

function drawChart(svg, rounds) {
  const { width, height, left, right, top, bottom } = CHART;
  const all = rounds.flatMap((round) => [round.dream_return, round.real_return]);
  const low = Math.min(0, ...all);
  const high = Math.max(low + 1e-6, 0, ...all);
  const first = rounds[0].real_steps;
  const span = Math.max(1, rounds.at(-1).real_steps - first);
  const x = (steps) => (rounds.length < 2 ? width / 2 : left + ((width - left - right) * (steps - first)) / span);
  const y = (value) => height - bottom - ((height - top - bottom) * (value - low)) / (high - low);
  const make = (name, attributes) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(make("line", { class: "zero", x1: 0, x2: width, y1: y(0), y2: y(0) }));
  for (const name of ["real", "dream"]) {
    const places = rounds.map((round) => [x(round.real_steps), y(round[`${name}_return`])]);
    svg.append(make("polyline", { class: name, points: places.map((place) => place.join(",")).join(" ") }));
    rounds.forEach((round, index) => {
      const dot = make("circle", { class: name, cx: places[index][0], cy: places[index][1], r: 3.5 });
      const title = make("title", {});
      title.textContent = `${round.real_steps.toLocaleString("en")} real steps: ${number(round[`${name}_return`])} in ${name === "real" ? "reality" : "dreams"}`;
      dot.append(title);
      svg.append(dot);
    });
  }
}
