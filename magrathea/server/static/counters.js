// Counters that the environment reports beside its picture: the dream's, and the real environment's next to them.

import { number, text } from "./panel.js";

const words = (name) => name.replaceAll("_", " ");
const isAchievement = (name) => /^achiev/i.test(name) && name.includes(".");
const groupOf = (name) => name.slice(0, Math.max(0, name.indexOf(".")));
const own = (name) => words(name.slice(name.indexOf(".") + 1));

export class Counters {
  // announce(text): a counter of a group of achievements has risen from 0
  constructor(section, announce) {
    this.section = section;
    this.announce = announce;
    this.names = [];
    this.rows = [];
    this.last = null; // the frame of the dream that is shown
  }

  setUp(names) {
    this.names = names;
    this.section.hidden = names.length === 0;
    this.rows = names.map((name) => {
      const row = document.createElement("div");
      row.append(Object.assign(document.createElement("dt"), { textContent: own(name) }));
      row.classList.toggle("achievement", isAchievement(name));
      row.dream = row.appendChild(document.createElement("dd"));
      row.real = row.appendChild(Object.assign(document.createElement("dd"), { className: "real", hidden: true, title: "In the real environment" }));
      return row;
    });
    const lists = new Map(); // by group, "" for counters of none
    names.forEach((name, index) => {
      const group = groupOf(name);
      if (!lists.has(group)) lists.set(group, Object.assign(document.createElement("dl"), { className: "counters" }));
      lists.get(group).append(this.rows[index]);
    });
    for (const [group, list] of lists) {
      if (group) this.section.append(Object.assign(document.createElement("h3"), { textContent: words(group) }));
      this.section.append(list);
    }
  }

  show(frame) {
    const before = this.last && this.last.branch === frame.branch && this.last.step < frame.step ? this.last.counters : null;
    frame.counters.forEach((value, index) => {
      const row = this.rows[index];
      if (!row) return;
      text(row.dream, number(value));
      row.classList.toggle("some", value > 0);
      row.classList.toggle("rose", before !== null && value > before[index]);
      row.classList.toggle("fell", before !== null && value < before[index]);
      const name = this.names[index];
      if (before !== null && isAchievement(name) && before[index] === 0 && value > 0) this.announce(`Achieved: ${own(name)}`);
    });
    this.last = frame;
  }

  showReal(values) {
    this.rows.forEach((row, index) => {
      row.real.hidden = !values;
      if (values) text(row.real, number(values[index] ?? 0));
    });
  }
}
