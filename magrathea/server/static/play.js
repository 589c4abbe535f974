// The play page: draws what the server dreams and sends what the keys say.

import { Keys, arrowOf, glyph, label, shortcuts } from "./keys.js";
import { Figures, fillStarts, text } from "./panel.js";
import { drawHeat, drawPicture, fitPictures } from "./picture.js";
import { SessionPanel } from "./session.js";
import { Timeline } from "./timeline.js";
import { Wire } from "./wire.js";

const $ = (id) => document.getElementById(id);
const touch = matchMedia("(pointer: coarse)");
const page = { world: null, keys: null, frame: null, reality: null, start: null, seed: 0, hiddenPause: false, waiting: false, stopped: false, restore: null };
const figures = new Figures();
const wire = new Wire(decodeURIComponent(location.pathname.split("/").pop()), { world: meet, session: settle, frame: receive, error: toast, connection });
const session = new SessionPanel({ wheel: (wish) => wire.send({ type: "wheel", wish }), say: toast });
const timeline = new Timeline({
  look,
  branch: (branch, step) => wire.send({ type: "branch", branch, step }),
  forget: (branch) => session.forget(branch),
});

// -- the server's side ------------------------------------------------------------------------------------------------

function connection(state, words) {
  $("connection").dataset.state = state;
  text($("connection-text"), words);
  if (state === "lost") page.keys?.releaseAll();
  veil();
}

function meet(message) {
  const first = page.world === null;
  page.world = message.world;
  if (first) furnish(message.world);
  page.restore = session.driving ? page.frame : null; // a session that slept meanwhile wakes with its defaults
  if (!new URL(location.href).searchParams.has("session")) history.replaceState(null, "", `?session=${message.session}`);
}

function settle(message) {
  session.show(message);
  timeline.show(message);
  if (page.restore && message.free) restoreChoices(page.restore);
  page.restore = null;
}

function receive(frame) {
  page[frame.kind === "reality" ? "reality" : "frame"] = frame;
  page.fresh = { ...page.fresh, [frame.kind]: true };
  if (page.waiting) return;
  page.waiting = true;
  requestAnimationFrame(draw);
}

function draw() {
  page.waiting = false;
  const { frame, reality, fresh } = page;
  page.fresh = {};
  if (fresh.dream) showDream(frame);
  if (fresh.reality) showReality(reality);
  wire.send({ type: "seen", frame: Math.max(frame?.frame ?? 0, reality?.frame ?? 0) });
}

function showDream(frame) {
  if (frame.parts.picture) {
    const size = $("dream").width;
    drawPicture($("dream"), frame.parts.picture);
    drawHeat($("heat"), frame.parts.uncertainty);
    if (size !== $("dream").width) fitPictures($("pictures"));
  }
  figures.show(frame);
  timeline.move(frame);
  document.body.dataset.state = frame.state;
  const paused = frame.state === "paused";
  $("pause").setAttribute("aria-pressed", String(paused));
  text($("pause-text"), paused ? "Resume" : "Pause");
  $("realtime-toggle").checked = frame.realtime;
  if (page.world?.noop !== null) text($("realtime-note"), frame.realtime ? "Time passes without a key" : "The world waits for your keys");
  if (page.keys) page.keys.ended = frame.state === "ended";
  const next = frame.next_action === null ? "" : `, next: ${label(page.world.actions[frame.next_action].name)}`;
  $("pill").hidden = !paused;
  text($("pill"), `Paused${next}`);
  showRealityState(frame.reality);
  veil();
}

function showReality(frame) {
  if (frame.parts.picture) drawPicture($("reality"), frame.parts.picture);
  fitPictures($("pictures"));
  showRealityState(frame.reality);
  $("reality-pill").hidden = !frame.terminated;
  text($("reality-pill"), "The real episode ended");
}

function showRealityState({ state, reason, behind }) {
  const shown = state === "starting" || state === "on" || state === "ended";
  if ($("reality-view").hidden === shown) {
    $("reality-view").hidden = !shown;
    $("dream-caption").hidden = !shown;
    $("layout").classList.toggle("side-by-side", shown);
    $("starts").inert = shown; // beside reality the dream starts where reality starts
    fitPictures($("pictures"));
    $("pictures").scrollIntoView({ block: "nearest" });
  }
  $("reality-toggle").checked = shown;
  const lost = state === "unavailable" || state === "absent";
  $("reality-toggle").disabled = state === "absent";
  $("reality-toggle").closest("label").classList.toggle("unavailable", lost);
  text($("reality-note"), lost ? `Not to be had: ${reason}` : "The real environment, beside the dream");
  text($("reality-text"), behind > 10 ? `${behind} steps behind` : "the same actions in the real environment");
}

// -- over the picture -------------------------------------------------------------------------------------------------

function veil() {
  const place = $("veil");
  const lost = wire.attempts > 0;
  const state = lost ? "lost" : page.frame?.state ?? "starting";
  const shown = `${state} ${lost ? wire.refused : ""}`;
  if (place.dataset.shown === shown) return;
  place.dataset.state = state;
  place.dataset.shown = shown;
  place.replaceChildren(...veilOf(state));
}

function veilOf(state) {
  const line = (words, name = "p") => Object.assign(document.createElement(name), { textContent: words });
  if (state === "lost" && /not here|deleted/.test(wire.refused)) {
    return [line("This dream is gone", "h2"), line(wire.refused), Object.assign(line("Begin a new one", "a"), { href: location.pathname, className: "button accent" })];
  }
  if (state === "lost" && wire.refused) return [line("Not yet", "h2"), line(wire.refused)];
  if (state === "lost") return [line("Connection lost", "h2"), line("Trying again by itself.")];
  if (state === "starting") return [line("Falling asleep…")];
  if (state === "ready") return page.world ? hint() : [];
  if (state !== "ended" && state !== "failed") return [];
  const again = line("Start again", "button");
  again.type = "button";
  again.className = "accent";
  again.addEventListener("click", () => reset());
  if (state === "failed") return [line("The dream stopped", "h2"), line(page.frame.reason), again];
  return [line("The episode ended", "h2"), line(touch.matches ? "Tap to start again." : "Press R to start again."), again];
}

function hint() {
  const arrows = page.world.actions.filter(arrowOf);
  const words = document.createElement("p");
  const enter = page.frame.step ? "go on" : "enter the dream";
  if (touch.matches) {
    words.textContent = `Tap an ${arrows.length ? "arrow" : "action"} to ${enter}`;
    return [words];
  }
  const keys = arrows.length ? ["ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"].filter((key) => arrows.some((action) => action.keys.includes(key)))
    : page.world.actions.flatMap((action) => action.keys.slice(0, 1)).slice(0, 4);
  for (const key of keys) words.append(Object.assign(document.createElement("kbd"), { textContent: glyph(key) }));
  words.append(` Press ${arrows.length ? "an arrow key" : "a key"} to ${enter}`);
  return [words];
}

function toast(reason) {
  const place = $("toast");
  place.hidden = false;
  place.textContent = reason.charAt(0).toUpperCase() + reason.slice(1);
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (place.hidden = true), 5000);
}

// -- the player's side ------------------------------------------------------------------------------------------------

function furnish(world) {
  document.title = `${world.name} · Magrathea`;
  text($("world-name"), world.name);
  text($("description"), world.description);
  $("card-link").hidden = !world.has_card;
  $("card-link").href = `/card/${encodeURIComponent(world.id)}`;
  page.keys = new Keys(world.actions, {
    press: (action) => wire.send({ type: "press", action }),
    release: (action) => wire.send({ type: "release", action }),
    shortcut: (name) => ({ pause: togglePause, step: singleStep, reset, heat: toggleHeat })[name](),
  });
  page.keys.layOut(world.actions, $("dpad"), $("primary"), $("actions"));
  for (const [name, key] of Object.entries(shortcuts(world.actions))) {
    const place = $(`${name}-key`);
    if (place) place.textContent = key ? glyph(key) : "";
  }
  if (world.noop === null) {
    $("realtime-toggle").disabled = true;
    text($("realtime-note"), "This world waits for keys: it has no no-op");
  }
  fillStarts($("starts"), world, (start) => {
    page.start = start;
    reset();
  });
  veil();
}

function restoreChoices({ speed, realtime }) {
  if (speed !== 1) wire.send({ type: "speed", value: speed });
  if (page.world.noop !== null && realtime === false) wire.send({ type: "realtime", on: false });
}

const togglePause = () => wire.send({ type: "pause", on: page.frame?.state !== "paused" });
const singleStep = () => wire.send({ type: "step" });

function reset() {
  const seed = $("seed").valueAsNumber;
  if (!Number.isInteger(seed) || seed < 0 || seed > 2147483647) {
    toast("the seed is a whole number from 0 to 2147483647");
    return;
  }
  wire.send({ type: "reset", seed, start: page.start });
}

// Whoever drives stops time to look back; back in the present it goes on.
function look(looking) {
  $("layout").classList.toggle("looking-back", looking);
  if (looking) page.stopped = session.driving && page.frame?.state === "playing";
  if (page.stopped) wire.send({ type: "pause", on: looking });
}

function toggleHeat() {
  $("heat-toggle").checked = !$("heat-toggle").checked;
  showHeat();
}

function showHeat() {
  $("heat").hidden = !$("heat-toggle").checked;
  $("dream-screen").classList.toggle("heated", $("heat-toggle").checked);
}

function listen() {
  $("pause").addEventListener("click", togglePause);
  $("step").addEventListener("click", singleStep);
  $("reset").addEventListener("click", reset);
  $("speed").addEventListener("change", (event) => wire.send({ type: "speed", value: event.target.value === "" ? null : Number(event.target.value) }));
  $("heat-toggle").addEventListener("change", showHeat);
  $("reality-toggle").addEventListener("change", (event) => wire.send({ type: "reality", on: event.target.checked }));
  $("realtime-toggle").addEventListener("change", (event) => wire.send({ type: "realtime", on: event.target.checked }));
  $("seed").addEventListener("change", reset);
  $("seed").addEventListener("keydown", (event) => event.key === "Enter" && event.target.blur());
  $("dice").addEventListener("click", () => {
    $("seed").value = Math.floor(Math.random() * 1e6);
    reset();
  });
  // After a click the keys belong to the world again; who came with the keyboard keeps the focus.
  document.addEventListener("click", (event) => event.detail > 0 && document.activeElement?.matches("button, input:not([type=number], [type=text])") && document.activeElement.blur());
  document.addEventListener("change", (event) => event.target.matches("select") && event.target.blur());
  document.addEventListener("visibilitychange", awayOrBack);
  window.addEventListener("resize", () => fitPictures($("pictures")));
}

// A dream does not run on while nobody looks.
function awayOrBack() {
  if (document.hidden && page.frame?.state === "playing" && session.alone) {
    page.hiddenPause = true;
    wire.send({ type: "pause", on: true });
  } else if (!document.hidden && page.hiddenPause) {
    page.hiddenPause = false;
    wire.send({ type: "pause", on: false });
  }
}

listen();
showHeat();
window.magratheaWire = wire; // for whoever opens the console
wire.open();
