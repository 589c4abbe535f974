// Texts: the transcript of a world of words, the texts beside a picture, and the form in which texts of actions are written.

import { label } from "./keys.js";

const MAX_STEPS = 200; // of the transcript

export class Transcript {
  constructor(place) {
    this.place = place;
    this.at = null; // session, branch and step of the last entry
  }

  // One step more is added; else all of them are asked for, as after a reload, a reset or a jump to an earlier step.
  show(frame, session) {
    if (!frame.seen.length) return;
    const key = `${session}/${frame.branch}`;
    if (this.at?.key === key && this.at.step === frame.step) return;
    const isNext = this.at?.key === key && this.at.step + 1 === frame.step;
    this.at = { key, step: frame.step };
    if (isNext) this.add(frame);
    else this.load(session, frame);
  }

  async load(session, frame) {
    const at = this.at;
    const answer = await fetch(`/api/sessions/${session}/branches/${frame.branch}/steps/${frame.step}.json`).catch(() => null);
    const steps = answer?.ok ? await answer.json() : [frame];
    if (at.key !== this.at.key || this.at.step < at.step) return;
    const later = [...this.place.children].filter((entry) => at !== this.at && Number(entry.dataset.step) > frame.step);
    this.place.replaceChildren(...steps.map(entryOf), ...later);
    this.scroll();
  }

  add(frame) {
    this.place.append(entryOf(frame));
    while (this.place.childElementCount > MAX_STEPS) this.place.firstElementChild.remove();
    this.scroll();
  }

  scroll() {
    this.place.scrollTop = this.place.scrollHeight;
  }
}

function entryOf({ step, said, seen }) {
  const entry = document.createElement("div");
  entry.dataset.step = step;
  const paragraphs = (parts, name) => parts.map((part) => Object.assign(document.createElement("p"), { className: name, textContent: part.text }));
  entry.append(...paragraphs(said, "said"), ...paragraphs(seen, "seen-text"));
  return entry;
}

// The texts beside a picture, such as the mission, by their names.
export function showSeen(place, parts) {
  const shown = JSON.stringify(parts);
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.hidden = !parts.length;
  place.replaceChildren(...parts.flatMap(({ name, text }) => [
    Object.assign(document.createElement("dt"), { textContent: label(name.split("/").at(-1)) }),
    Object.assign(document.createElement("dd"), { textContent: text }),
  ]));
}

export class SayForm {
  // texts: those of the world's actions; say(index, value) is told what was written
  constructor(texts, place, say) {
    this.said = [];
    this.at = 0; // in what was said, while the arrow keys look for it
    place.hidden = !texts.length;
    place.replaceChildren(...texts.flatMap((part) => this.field(part)));
    place.addEventListener("submit", (event) => {
      event.preventDefault();
      const input = place.contains(document.activeElement) && document.activeElement.matches("input") ? document.activeElement : place.querySelector("input");
      if (!input.value) return;
      say(Number(input.dataset.text), input.value);
      this.said.push(input.value);
      this.at = this.said.length;
      input.value = "";
    });
    if (texts.length && !matchMedia("(pointer: coarse)").matches) place.querySelector("input").focus();
  }

  field(part) {
    const name = part.name ? label(part.name.split("/").at(-1)) : "What do you do?";
    const input = Object.assign(document.createElement("input"), { type: "text", maxLength: Math.min(part.max_length, 2000), placeholder: name, autocomplete: "off", spellcheck: false });
    input.setAttribute("aria-label", name);
    input.setAttribute("autocapitalize", "none");
    input.enterKeyHint = "send";
    input.dataset.text = part.index;
    input.addEventListener("keydown", (event) => {
      const by = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!by || event.isComposing) return;
      event.preventDefault();
      this.at = Math.min(Math.max(this.at + by, 0), this.said.length);
      input.value = this.said[this.at] ?? "";
    });
    return [input, Object.assign(document.createElement("button"), { type: "submit", className: "accent", textContent: "Send" })];
  }
}
