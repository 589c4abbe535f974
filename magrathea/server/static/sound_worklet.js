// In the audio thread: plays the sounds of steps one after another out of a ring buffer.

const LEAD = 0.03; // seconds of silence before a sound that follows none, so that the next one may be a little late
const MOST_WAITING = 0.06; // seconds of sound that may wait when a step's sound comes; older sound is left out
const FADE = 64; // samples in which sound that is cut off falls silent

class Steps extends AudioWorkletProcessor {
  constructor(options) {
    super();
    const [channels] = options.outputChannelCount;
    this.size = 4 * Math.ceil(sampleRate); // samples, of four seconds
    this.ring = Array.from({ length: channels }, () => new Float32Array(this.size));
    this.read = this.write = 0; // samples since the beginning
    this.marks = []; // {step, at}: where sounds begin
    this.last = this.ring.map(() => 0);
    this.port.onmessage = ({ data }) => this.add(data);
  }

  add({ step, channels }) {
    const waiting = this.write - this.read;
    if (waiting === 0) this.silence(Math.round(LEAD * sampleRate));
    else if (waiting > MOST_WAITING * sampleRate) this.skip(waiting - Math.round(LEAD * sampleRate));
    this.marks.push({ step, at: this.write });
    const length = Math.min(channels[0].length, this.size - (this.write - this.read));
    this.ring.forEach((ring, channel) => {
      const samples = channels[Math.min(channel, channels.length - 1)];
      for (let index = 0; index < length; index += 1) ring[(this.write + index) % this.size] = samples[index];
    });
    this.write += length;
  }

  silence(length) {
    for (const ring of this.ring) for (let index = 0; index < length; index += 1) ring[(this.write + index) % this.size] = 0;
    this.write += length;
  }

  // Leave out sound that comes next, and let what was heard last run into what is heard then.
  skip(length) {
    this.read += length;
    this.ring.forEach((ring, channel) => {
      for (let index = 0; index < FADE; index += 1) {
        const share = (index + 1) / FADE;
        const place = (this.read + index) % this.size;
        ring[place] = share * ring[place] + (1 - share) * this.last[channel];
      }
    });
  }

  process(_, [output]) {
    const length = output[0].length;
    const there = Math.min(length, this.write - this.read);
    this.ring.forEach((ring, channel) => {
      const out = output[channel];
      for (let index = 0; index < there; index += 1) out[index] = ring[(this.read + index) % this.size];
      if (there) this.last[channel] = out[there - 1];
      for (let index = there; index < length; index += 1) {
        this.last[channel] *= 1 - 4 / FADE;
        out[index] = this.last[channel];
      }
    });
    while (this.marks.length && this.marks[0].at < this.read + Math.max(1, there)) {
      const { step, at } = this.marks.shift();
      this.port.postMessage({ step, time: currentTime + Math.max(0, at - this.read) / sampleRate });
    }
    this.read += there;
    return true;
  }
}

registerProcessor("steps", Steps);
