// What is kept of this dream: its name, its link, a copy to try something else, a file; and who drives it.

import { text } from "./panel.js";

const $ = (id) => document.getElementById(id);

export class SessionPanel {
  // on has: wheel(wish), say(words)
  constructor(on) {
    this.on = on;
    this.now = null; // the server's newest word on the session
    $("session-name").addEventListener("change", () => this.rename());
    $("session-name").addEventListener("keydown", (event) => event.key === "Enter" && event.target.blur());
    $("copy-link").addEventListener("click", () => this.copyLink());
    $("what-if").addEventListener("click", () => this.whatIf());
    $("wheel-button").addEventListener("click", () => on.wheel(this.now.driving || this.now.asked ? "give" : "ask"));
  }

  get driving() {
    return Boolean(this.now?.driving);
  }

  get alone() {
    return this.now?.viewers === 1;
  }

  show(session) {
    this.now = session;
    if (document.activeElement !== $("session-name")) $("session-name").value = session.name;
    $("download").href = `/api/sessions/${session.id}/file`;
    $("wheel").hidden = session.viewers < 2;
    const others = session.viewers - 1;
    const watching = `${others} other${others > 1 ? "s" : ""}`;
    if (session.driving) {
      text($("wheel-text"), session.asking ? "You drive. Somebody asks for a turn." : `You drive; ${watching} here.`);
      text($("wheel-button"), "Hand over");
    } else {
      text($("wheel-text"), session.free ? "Nobody drives. Press a key to take over." : session.asked ? "You are next." : "Somebody else drives. You watch.");
      text($("wheel-button"), session.asked ? "Never mind" : "Ask for a turn");
    }
    $("wheel-button").hidden = session.free;
    $("wheel").classList.toggle("asked", session.driving && session.asking > 0);
  }

  async rename() {
    const response = await fetch(`/api/sessions/${this.now.id}`, { method: "PATCH", body: JSON.stringify({ name: $("session-name").value }) });
    if (!response.ok) this.on.say(await response.text());
  }

  async copyLink() {
    try {
      await navigator.clipboard.writeText(location.href);
      this.done($("copy-link"), "Copied");
    } catch {
      this.on.say(`The link is ${location.href}`); // browsers only copy where the connection is secure
    }
  }

  async whatIf() {
    const name = this.now.name ? `${this.now.name}, what if` : "";
    const response = await fetch(`/api/sessions/${this.now.id}/fork`, { method: "POST", body: JSON.stringify({ name: name.slice(0, 80) }) });
    if (!response.ok) {
      this.on.say(await response.text());
      return;
    }
    location.href = `${location.pathname}?session=${(await response.json()).id}`;
  }

  async forget(branch) {
    const response = await fetch(`/api/sessions/${this.now.id}/branches/${branch}`, { method: "DELETE" });
    if (!response.ok) this.on.say(await response.text());
  }

  done(button, words) {
    const before = button.textContent;
    button.textContent = words;
    setTimeout(() => (button.textContent = before), 1500);
  }
}
