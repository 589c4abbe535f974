// The sound of the dream: each step's is heard when its picture is drawn, from the first gesture on, until it is muted.

const MUTED = "sound muted"; // in localStorage

export class SoundPlayer {
  // button mutes; its data-lag is by how many milliseconds the last sound that began was heard after its picture was drawn.
  constructor(button) {
    this.button = button;
    this.node = null;
    this.last = "";
    this.drawnAt = new Map(); // step -> moment of its picture
    this.began = new Map(); // step -> moment of its sound
    button.addEventListener("click", () => this.mute(!this.muted));
  }

  get muted() {
    return localStorage.getItem(MUTED) === "yes";
  }

  setUp(info) {
    this.info = info;
    this.button.hidden = !info;
    if (!info) return;
    this.show();
    const start = () => this.start();
    for (const gesture of ["pointerdown", "keydown"]) document.addEventListener(gesture, start, { capture: true });
    this.forget = () => ["pointerdown", "keydown"].forEach((gesture) => document.removeEventListener(gesture, start, { capture: true }));
  }

  // Browsers let a page be heard after a gesture only.
  async start() {
    if (this.starting) return;
    this.starting = true;
    this.forget();
    this.context = new AudioContext({ sampleRate: this.info.sample_rate, latencyHint: "interactive" });
    await this.context.audioWorklet.addModule("/static/sound_worklet.js");
    this.volume = new GainNode(this.context, { gain: this.muted ? 0 : 1 });
    this.node = new AudioWorkletNode(this.context, "steps", { numberOfInputs: 0, outputChannelCount: [Math.min(2, this.info.channels)] });
    this.node.port.onmessage = ({ data }) => this.heard(data);
    this.node.connect(this.volume).connect(this.context.destination);
    await this.context.resume();
    this.show();
  }

  mute(on) {
    localStorage.setItem(MUTED, on ? "yes" : "no");
    if (this.volume) this.volume.gain.setTargetAtTime(on ? 0 : 1, this.context.currentTime, 0.01);
    this.show();
  }

  show() {
    const state = this.muted ? "muted" : this.context?.state === "running" ? "heard" : "waiting";
    this.button.dataset.state = state;
    this.button.setAttribute("aria-pressed", String(!this.muted));
    this.button.title = { muted: "Sound is off", heard: "Sound is on", waiting: "Sound begins with a key or a click" }[state];
  }

  // A frame may come more than once: what its step sounds like is heard once.
  play(frame) {
    const part = frame.parts.sound;
    const step = `${frame.branch}/${frame.step}`;
    if (step === this.last) return;
    this.last = step;
    if (!part || !this.node) return;
    const [length, channels] = part.shape;
    const samples = new Int16Array(part.data.slice().buffer);
    const heard = Array.from({ length: Math.min(2, channels) }, (_, channel) => Float32Array.from({ length }, (_, index) => samples[index * channels + channel] / 32768));
    this.node.port.postMessage({ step, channels: heard }, heard.map((channel) => channel.buffer));
  }

  drawn(frame) {
    const step = `${frame.branch}/${frame.step}`;
    if (this.node && frame.parts.sound && !this.drawnAt.has(step)) this.note(this.drawnAt, step, performance.now());
  }

  // The worklet began a step's sound at a moment of its own clock, which is heard when the device has come to it.
  heard({ step, time }) {
    const { contextTime, performanceTime } = this.context.getOutputTimestamp();
    const out = performanceTime ? performanceTime + 1000 * (time - contextTime) : performance.now() + 1000 * (this.context.outputLatency || this.context.baseLatency);
    this.note(this.began, step, out);
  }

  note(moments, step, moment) {
    moments.set(step, moment);
    if (moments.size > 64) moments.delete(moments.keys().next().value);
    if (this.drawnAt.has(step) && this.began.has(step)) this.button.dataset.lag = (this.began.get(step) - this.drawnAt.get(step)).toFixed(1);
  }
}
