// The play page: draws the server's frames and sends keys.

import { Connection } from "./connection.js";
import { Counters } from "./counters.js";
import { Sliders, followGamepad } from "./gamepad.js";
import { Keys, arrowOf, keyCap, glyph, label, shortcuts } from "./keys.js";
import { Figures, fillStarts, number, text } from "./panel.js";
import { drawHeat, drawPicture, fitPictures } from "./picture.js";
import { SessionPanel } from "./session.js";
import { SoundPlayer } from "./sound.js";
import { Timeline } from "./timeline.js";
import { SayForm, Transcript, showSeen } from "./words.js";

const $ = (id) => document.getElementById(id);
const touch = matchMedia("(pointer: coarse)");
const page = { world: null, keys: null, sliders: null, frame: null, mirror: null, start: null, waiting: false, stopped: false, restore: null };
const HIDDEN = "paused while hidden"; // in sessionStorage, which outlives a reload: the session that hiding this page paused
const NEWS_SECONDS = 4;
const figures = new Figures();
const counters = new Counters($("counters"), announce);
const sound = new SoundPlayer($("sound"));
const connection = new Connection(decodeURIComponent(location.pathname.split("/").pop()), { world: receiveWorld, session: receiveSession, frame: receiveFrame, error: toast, connection: showConnection });
const session = new SessionPanel({ control: (on) => connection.send({ type: "control", on }), notify: toast });
const transcript = new Transcript($("transcript"));
const timeline = new Timeline({
  lookBack,
  goTo: (branch, step) => connection.send({ type: "go_to", branch, step }),
  deleteBranch: (branch) => session.deleteBranch(branch),
});

// -- messages from the server ------------------------------------------------------------------------------------------------

function showConnection(state, words) {
  $("connection").dataset.state = state;
  text($("connection-text"), words);
  if (state === "lost") {
    page.keys?.releaseAll();
    page.sliders?.rest();
  }
  showOverlay();
}

function receiveWorld(message) {
  const first = page.world === null;
  page.world = message.world;
  if (first) setUp(message.world);
  page.restore = session.inControl ? page.frame : null; // a session that was suspended resumes with default settings
  if (!new URL(location.href).searchParams.has("session")) history.replaceState(null, "", `?session=${message.session}`);
}

function receiveSession(message) {
  session.show(message);
  timeline.show(message);
  if (page.restore && message.free) restoreSettings(page.restore);
  page.restore = null;
  resumeShown();
}

function receiveFrame(frame) {
  page[frame.kind === "mirror" ? "mirror" : "frame"] = frame;
  page.fresh = { ...page.fresh, [frame.kind]: true };
  if (frame.kind === "dream") sound.play(frame);
  if (page.waiting) return;
  page.waiting = true;
  requestAnimationFrame(draw);
}

function draw() {
  page.waiting = false;
  const { frame, mirror, fresh } = page;
  page.fresh = {};
  if (fresh.dream) showDream(frame);
  if (fresh.mirror) showMirror(mirror);
  connection.send({ type: "seen", frame: Math.max(frame?.frame ?? 0, mirror?.frame ?? 0) });
}

function showDream(frame) {
  if (frame.parts.picture) {
    const size = $("dream").width;
    drawPicture($("dream"), frame.parts.picture);
    drawHeat($("heat"), frame.parts.uncertainty);
    sound.drawn(frame);
    if (size !== $("dream").width) fitPictures($("pictures"));
  }
  if (page.world?.is_text) transcript.show(frame, connection.session);
  else showSeen($("seen"), frame.seen);
  figures.show(frame);
  counters.show(frame);
  timeline.move(frame);
  $("clip").href = timeline.clipAddress;
  document.body.dataset.state = frame.state;
  const paused = frame.state === "paused";
  $("pause").setAttribute("aria-pressed", String(paused));
  text($("pause-text"), paused ? "Resume" : "Pause");
  $("realtime-toggle").checked = frame.realtime;
  if (page.world?.has_noop) text($("realtime-note"), frame.realtime ? "Steps go on without a key" : "The world waits for your keys");
  if (page.keys) page.keys.ended = frame.state === "ended";
  const chosen = frame.next_buttons.map((index) => label(page.world.buttons[index].name));
  const next = chosen.length ? `, next: ${chosen.join(" + ")}` : "";
  $("pill").hidden = !paused && !frame.status;
  text($("pill"), [paused ? `Paused${next}` : "", frame.status].filter(Boolean).join(" · "));
  showMirrorStatus(frame.mirror);
  if (paused) resumeShown();
  showOverlay();
}

function showMirror(frame) {
  if (frame.parts.picture) drawPicture($("mirror"), frame.parts.picture);
  fitPictures($("pictures"));
  counters.showReal(frame.counters.length ? frame.counters : null);
  showMirrorStatus(frame.mirror);
  $("mirror-pill").hidden = !frame.terminated;
  text($("mirror-pill"), "The real episode ended");
}

function showMirrorStatus({ state, reason, behind }) {
  const shown = state === "starting" || state === "on" || state === "ended";
  if (!shown) counters.showReal(null);
  if ($("mirror-view").hidden === shown) {
    $("mirror-view").hidden = !shown;
    $("dream-caption").hidden = !shown;
    $("layout").classList.toggle("side-by-side", shown);
    $("starts").inert = shown; // the dream starts where the real environment starts
    fitPictures($("pictures"));
    $("pictures").scrollIntoView({ block: "nearest" });
  }
  $("mirror-toggle").checked = shown;
  const failed = state === "failed" || state === "unavailable";
  $("mirror-toggle").disabled = state === "unavailable";
  $("mirror-toggle").closest("label").classList.toggle("unavailable", failed);
  text($("mirror-note"), failed ? `Not available: ${reason}` : "Takes the same actions as the dream");
  text($("mirror-text"), behind > 10 ? `${behind} steps behind` : "the same actions");
}

function announce(words) {
  const news = $("news");
  text(news, page.news ? `${news.textContent} · ${words.replace("Achieved: ", "")}` : words);
  news.hidden = false;
  clearTimeout(page.news);
  page.news = setTimeout(() => {
    news.hidden = true;
    page.news = null;
  }, 1000 * NEWS_SECONDS);
}

// -- overlay of the picture -------------------------------------------------------------------------------------------------

function showOverlay() {
  const place = $("overlay");
  const lost = connection.attempts > 0;
  const state = lost ? "lost" : page.frame?.state ?? "starting";
  const shown = `${state} ${lost ? connection.refused : ""}`;
  if (place.dataset.shown === shown) return;
  place.dataset.state = state;
  place.dataset.shown = shown;
  place.replaceChildren(...overlayOf(state));
}

const line = (words, name = "p") => Object.assign(document.createElement(name), { textContent: words });

function overlayOf(state) {
  if (state === "lost" && /not here|deleted/.test(connection.refused)) {
    return [line("This session is not available", "h2"), line(connection.refused), Object.assign(line("Start a new one", "a"), { href: location.pathname, className: "button accent" })];
  }
  if (state === "lost" && connection.refused) return [line("Cannot connect yet", "h2"), line(connection.refused)];
  if (state === "lost") return [line("Connection lost", "h2"), line("Reconnecting…")];
  if (state === "starting") return [line("Starting…")];
  if (state === "ready") return page.world ? hint() : [];
  if (state !== "ended" && state !== "failed") return [];
  const again = line("Start again", "button");
  again.type = "button";
  again.className = "accent";
  again.addEventListener("click", () => reset());
  if (state === "failed") return [line("This session cannot go on", "h2"), line(page.frame.reason), again];
  const total = line(`Total reward ${number(page.frame.total_reward)} in ${page.frame.step} steps`);
  return [line("The episode ended", "h2"), total, line(touch.matches ? "Tap to start again." : page.world?.texts.length ? "" : `Press ${glyph("r")} to start again.`), again];
}

function hint() {
  const arrows = page.world.buttons.filter(arrowOf);
  const words = document.createElement("p");
  const purpose = page.frame.step ? "continue" : "start";
  if (page.world.texts.length && !page.world.buttons.length) return page.world.is_text ? [] : [line(`Write what to do to ${purpose}`)];
  if (touch.matches) {
    words.textContent = `Tap an ${arrows.length ? "arrow" : "action"} to ${purpose}`;
    return [words];
  }
  const keys = arrows.length ? ["ArrowLeft", "ArrowUp", "ArrowDown", "ArrowRight"].filter((key) => arrows.some((button) => button.keys.includes(key)))
    : page.world.buttons.flatMap((button) => button.keys.slice(0, 1)).slice(0, 4);
  words.append(...keys.map(keyCap));
  words.append(` Press ${arrows.length ? "an arrow key" : "a key"} to ${purpose}`);
  return [words];
}

function toast(reason) {
  const place = $("toast");
  place.hidden = false;
  place.textContent = reason;
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => (place.hidden = true), 5000);
}

// -- input ------------------------------------------------------------------------------------------------

function setUp(world) {
  document.title = `${world.name} · Magrathea`;
  text($("world-name"), world.name);
  text($("description"), world.description);
  $("card-link").hidden = !world.has_card;
  $("card-link").href = `/card/${encodeURIComponent(world.id)}`;
  page.keys = new Keys(world.buttons, {
    press: (button) => connection.send({ type: "press", button }),
    release: (button) => connection.send({ type: "release", button }),
    shortcut: (name) => ({ pause: togglePause, step: singleStep, reset, heat: toggleHeat, rewind: () => timeline.rewind(), rewound: () => timeline.rewound() })[name](),
  });
  counters.setUp(world.counters);
  sound.setUp(world.sound);
  timeline.clipKind = world.sound ? "mp4" : "gif";
  if (world.sound) $("clip").title = "The last ten seconds as a video with sound";
  page.keys.layOut(world.buttons, $("dpad"), $("primary"), $("actions"));
  $("transcript").hidden = !world.is_text;
  $("layout").classList.toggle("no-keys", world.buttons.length + world.axes.length === 0);
  new SayForm(world.texts, $("say"), (text, value) => connection.send({ type: "say", text, value }));
  page.sliders = new Sliders(world.axes, $("sliders"), (axis, value) => connection.send({ type: "axis", axis, value }));
  followGamepad(world.buttons, page.keys, page.sliders);
  for (const [name, key] of Object.entries(shortcuts(world.buttons))) {
    const place = $(`${name}-key`);
    if (place && key) place.replaceWith(Object.assign(keyCap(key), { id: place.id }));
  }
  if (!world.has_noop) {
    $("realtime-toggle").disabled = true;
    text($("realtime-note"), world.texts.length ? "This world waits for what you write" : "This world waits for keys: it has no no-op");
  }
  fillStarts($("starts"), world, (start) => {
    page.start = start;
    reset();
  });
  showOverlay();
}

function restoreSettings({ speed, realtime }) {
  if (speed !== 1) connection.send({ type: "speed", value: speed });
  if (page.world.has_noop && realtime === false) connection.send({ type: "realtime", on: false });
}

const togglePause = () => connection.send({ type: "pause", on: page.frame?.state !== "paused" });
const singleStep = () => connection.send({ type: "step" });

function reset() {
  const seed = $("seed").valueAsNumber;
  if (!Number.isInteger(seed) || seed < 0 || seed > 2147483647) {
    toast("The seed is a whole number from 0 to 2147483647");
    return;
  }
  connection.send({ type: "reset", seed, start: page.start });
}

function toggleFullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.querySelector(".stage").requestFullscreen().catch(() => toast("This browser does not allow full screen here."));
}

// Looking back pauses the session, if this page has control; it resumes afterwards.
function lookBack(looking) {
  $("layout").classList.toggle("looking-back", looking);
  if (looking) page.stopped = session.inControl && page.frame?.state === "playing";
  if (page.stopped) connection.send({ type: "pause", on: looking });
}

// The real environment cannot begin where the dream is, so both start anew: not without asking.
function mirrorChanged(on) {
  $("mirror-confirm").hidden = !on || !page.frame?.step;
  if ($("mirror-confirm").hidden) {
    connection.send({ type: "mirror", on });
    return;
  }
  $("mirror-toggle").checked = false;
  const steps = page.frame.step === 1 ? "The step so far stays" : `The ${page.frame.step} steps so far stay`;
  text($("mirror-question"), `Both start anew, side by side. ${steps} as a branch of this session.`);
  $("mirror-start").focus();
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
  $("rewind").addEventListener("pointerdown", () => timeline.rewind());
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) $("rewind").addEventListener(end, () => timeline.rewound());
  $("full-screen").hidden = !document.fullscreenEnabled;
  $("full-screen").addEventListener("click", toggleFullScreen);
  document.addEventListener("fullscreenchange", () => fitPictures($("pictures")));
  $("reset").addEventListener("click", reset);
  $("speed").addEventListener("change", (event) => connection.send({ type: "speed", value: event.target.value === "" ? null : Number(event.target.value) }));
  $("heat-toggle").addEventListener("change", showHeat);
  $("mirror-toggle").addEventListener("change", (event) => mirrorChanged(event.target.checked));
  $("mirror-start").addEventListener("click", () => {
    $("mirror-confirm").hidden = true;
    connection.send({ type: "mirror", on: true });
  });
  $("mirror-cancel").addEventListener("click", () => {
    $("mirror-confirm").hidden = true;
    $("mirror-toggle").focus();
  });
  $("realtime-toggle").addEventListener("change", (event) => connection.send({ type: "realtime", on: event.target.checked }));
  $("seed").addEventListener("change", reset);
  $("seed").addEventListener("keydown", (event) => event.key === "Enter" && event.target.blur());
  $("new-seed").addEventListener("click", () => {
    $("seed").value = Math.floor(Math.random() * 1e6);
    reset();
  });
  // After a click of the pointer the keys are the world's again; keyboard users keep the focus.
  document.addEventListener("click", (event) => event.detail > 0 && document.activeElement?.matches("button, input:not([type=number], [type=text])") && document.activeElement.blur());
  document.addEventListener("change", (event) => event.target.matches("select") && event.target.blur());
  document.addEventListener("visibilitychange", visibilityChanged);
  window.addEventListener("resize", () => fitPictures($("pictures")));
}

// A session that only this page shows pauses while the page is hidden. That pause ends when the page is shown, even if it
// was loaded again meanwhile.
function visibilityChanged() {
  if (document.hidden && page.frame?.state === "playing" && session.alone) {
    sessionStorage.setItem(HIDDEN, connection.session);
    connection.send({ type: "pause", on: true });
  } else {
    resumeShown();
  }
}

function resumeShown() {
  if (document.hidden || sessionStorage.getItem(HIDDEN) !== connection.session) return;
  if (!connection.isOpen || !session.mayAct || !["paused", "playing"].includes(page.frame?.state)) return;
  sessionStorage.removeItem(HIDDEN);
  connection.send({ type: "pause", on: false });
}

listen();
showHeat();
window.magratheaConnection = connection; // for the browser's console and the tests
connection.open();
