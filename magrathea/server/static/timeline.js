// The timeline: a slider to look back at earlier steps, and the branches as a tree.

import { text } from "./panel.js";

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const ROW = matchMedia("(pointer: coarse)").matches ? 28 : 16; // pixels, larger for fingers
const REWIND = 15; // steps that the first second goes back
const CROSS = 24; // pixels kept free for the delete buttons

export class Timeline {
  // on has: lookBack(looking), goTo(branch, step), deleteBranch(branch)
  constructor(on) {
    this.on = on;
    this.session = null;
    this.branch = 0;
    this.step = 0;
    this.looking = null; // the earlier step that is shown
    this.loading = null; // the step whose picture is being loaded
    this.clipKind = "gif"; // ending of the address of a clip
    this.rewinding = null; // the timer while a key is held to rewind
    this.confirming = null; // the branch whose deletion waits for a second click
    $("timeline").addEventListener("input", () => this.scrub($("timeline").valueAsNumber));
    $("continue-here").addEventListener("click", () => this.continueHere());
    $("back-to-latest").addEventListener("click", () => this.back());
    $("past").addEventListener("load", () => this.loaded());
    $("past").addEventListener("error", () => (this.loading = null));
    new ResizeObserver(() => this.draw()).observe($("tree").parentElement);
  }

  // A frame of the dream: the newest step.
  move(frame) {
    if (frame.branch !== this.branch) this.back();
    this.branch = frame.branch;
    if (frame.step === this.step && $("timeline").max === String(frame.step)) return;
    this.step = frame.step;
    $("timeline").max = frame.step;
    if (this.looking === null) $("timeline").value = frame.step;
    this.showText();
    this.draw();
  }

  show(session) {
    this.session = session;
    this.draw();
  }

  scrub(step) {
    if (step >= this.step) {
      this.back();
      return;
    }
    const first = this.looking === null;
    this.looking = step;
    $("looking").hidden = false;
    this.showText();
    this.draw();
    this.load();
    if (first) this.on.lookBack(true);
  }

  // Back, faster and faster, until `rewound` continues from there.
  rewind() {
    if (this.rewinding || this.step === 0) return;
    const began = performance.now();
    const from = this.looking ?? this.step;
    this.rewinding = setInterval(() => {
      const seconds = (performance.now() - began) / 1000;
      this.scrub(Math.max(0, Math.floor(from - 1 - REWIND * seconds * (1 + seconds))));
      $("timeline").value = this.looking ?? this.step;
    }, 50);
    this.scrub(from - 1);
  }

  rewound() {
    if (!this.rewinding) return;
    clearInterval(this.rewinding);
    this.rewinding = null;
    this.continueHere();
  }

  // One picture is loaded at a time; when it is there, the one wanted last is next.
  load() {
    if (this.loading !== null || this.looking === null) return;
    this.loading = this.looking;
    $("past").src = `/api/sessions/${this.session.id}/branches/${this.branch}/steps/${this.loading}.png`;
  }

  loaded() {
    const step = this.loading;
    this.loading = null;
    if (this.looking === null) return;
    $("past").hidden = false;
    $("past").dataset.step = step;
    if (step !== this.looking) this.load();
  }

  // Of the last seconds up to the step that is shown.
  get clipAddress() {
    return this.session ? `/api/sessions/${this.session.id}/branches/${this.branch}/steps/${this.looking ?? this.step}.${this.clipKind}` : "";
  }

  continueHere() {
    if (this.looking !== null) this.on.goTo(this.branch, this.looking);
  }

  back() {
    if (this.looking === null) return;
    this.looking = null;
    this.loading = null;
    $("past").hidden = true;
    $("looking").hidden = true;
    $("timeline").value = this.step;
    this.showText();
    this.draw();
    this.on.lookBack(false);
  }

  showText() {
    const now = this.step === 0 ? "No steps yet" : `Step ${this.step}. Drag to look back.`;
    text($("timeline-text"), this.looking === null ? now : `Looking back at step ${this.looking} of ${this.step}`);
    $("timeline").disabled = this.step === 0;
  }

  // Each branch is a line from where it left its parent to its last step; a click continues at its end. All but the
  // current one have a button that deletes them.
  draw() {
    const branches = this.session?.branches ?? [];
    const tree = $("tree");
    tree.toggleAttribute("hidden", branches.length < 2);
    if (branches.length < 2) return;
    const ends = new Map(branches.map((branch) => [branch.id, branch.id === this.branch ? Math.max(this.step, branch.num_steps) : branch.num_steps]));
    const width = Math.max(100, tree.parentElement.clientWidth);
    const most = Math.max(1, ...ends.values());
    const x = (step) => 8 + ((width - 16 - CROSS) * step) / most;
    const rows = new Map(branches.map((branch, row) => [branch.id, 10 + ROW * row]));
    tree.setAttribute("viewBox", `0 0 ${width} ${ROW * branches.length + 4}`);
    tree.style.height = `${ROW * branches.length + 4}px`;
    tree.replaceChildren(...branches.map((branch, index) => {
      const y = rows.get(branch.id);
      const from = rows.get(branch.parent) ?? y;
      const end = ends.get(branch.id);
      const path = make("path", { d: `M${x(branch.forked_at)} ${from}V${y}H${x(end)}` });
      const dot = make("circle", { cx: x(branch.id === this.branch ? this.looking ?? end : end), cy: y, r: 5 });
      const reach = make("rect", { x: x(branch.forked_at) - 8, y: y - ROW / 2, width: x(end) - x(branch.forked_at) + 16, height: ROW });
      const current = branch.id === this.branch;
      const group = make("g", { role: "button", tabindex: 0, class: current ? "current" : "", "data-branch": branch.id,
        "aria-label": `Branch ${index + 1}, steps ${branch.forked_at} to ${end}${current ? ", this one" : ""}` }, reach, path, dot);
      press(group, () => !current && this.on.goTo(branch.id, branch.num_steps));
      return current ? [group] : [group, this.cross(branch.id, index + 1, width, y)];
    }).flat());
  }

  cross(branch, number, width, y) {
    const sure = this.confirming === branch;
    const group = make("g", { role: "button", tabindex: 0, class: sure ? "cross sure" : "cross", "data-delete": branch,
      "aria-label": sure ? `Delete for good? Branch ${number}` : `Delete branch ${number}` },
      make("rect", { x: width - CROSS, y: y - ROW / 2, width: CROSS, height: ROW }),
      make("text", { x: width - 2, y: y + 4, "text-anchor": "end" }));
    text(group.lastChild, sure ? "Delete for good?" : "✕");
    press(group, () => {
      this.confirming = sure ? null : branch;
      this.draw();
      if (sure) {
        this.on.deleteBranch(branch);
        return;
      }
      $("tree").querySelector(`[data-delete="${branch}"]`).focus();
      setTimeout(() => {
        if (this.confirming !== branch) return;
        this.confirming = null;
        this.draw();
      }, 4000);
    });
    return group;
  }
}

function press(element, act) {
  element.addEventListener("click", act);
  element.addEventListener("keydown", (event) => event.key === "Enter" && act());
}

function make(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
