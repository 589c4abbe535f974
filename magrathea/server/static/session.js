// The session's name, link, fork and file; and who has control of it.

import { text } from "./panel.js";

const $ = (id) => document.getElementById(id);

export class SessionPanel {
  // on has: control(on), notify(text)
  constructor(on) {
    this.on = on;
    this.latest = null; // the server's newest session message
    $("session-name").addEventListener("change", () => this.rename());
    $("session-name").addEventListener("keydown", (event) => event.key === "Enter" && event.target.blur());
    $("copy-link").addEventListener("click", () => this.copyLink());
    $("fork").addEventListener("click", () => this.fork());
    $("control-button").addEventListener("click", () => on.control(!this.latest.in_control && !this.latest.requested));
  }

  get inControl() {
    return Boolean(this.latest?.in_control);
  }

  get mayAct() {
    return Boolean(this.latest?.in_control || this.latest?.free);
  }

  get alone() {
    return this.latest?.viewers === 1;
  }

  show(session) {
    this.latest = session;
    if (document.activeElement !== $("session-name")) $("session-name").value = session.name;
    $("download").href = `/api/sessions/${session.id}/file`;
    $("control").hidden = session.viewers < 2;
    const others = session.viewers - 1;
    const watching = `${others} other${others > 1 ? "s" : ""}`;
    if (session.in_control) {
      text($("control-text"), session.requests ? "You have control. Someone requests it." : `You have control; ${watching} watching.`);
      text($("control-button"), "Release control");
    } else {
      text($("control-text"), session.free ? "Nobody has control. Press a key to take it." : session.requested ? "You get control next." : "Someone else has control. You are watching.");
      text($("control-button"), session.requested ? "Cancel request" : "Request control");
    }
    $("control-button").hidden = session.free;
    $("control").classList.toggle("requested", session.in_control && session.requests > 0);
  }

  async rename() {
    const response = await fetch(`/api/sessions/${this.latest.id}`, { method: "PATCH", body: JSON.stringify({ name: $("session-name").value }) });
    if (!response.ok) this.on.notify(await response.text());
  }

  async copyLink() {
    try {
      await navigator.clipboard.writeText(location.href);
      this.done($("copy-link"), "Copied");
    } catch {
      this.on.notify(`The link is ${location.href}`); // browsers only copy where the connection is secure
    }
  }

  async fork() {
    const name = this.latest.name ? `${this.latest.name} (fork)` : "";
    const response = await fetch(`/api/sessions/${this.latest.id}/fork`, { method: "POST", body: JSON.stringify({ name: name.slice(0, 80) }) });
    if (!response.ok) {
      this.on.notify(await response.text());
      return;
    }
    location.href = `${location.pathname}?session=${(await response.json()).id}`;
  }

  async deleteBranch(branch) {
    const response = await fetch(`/api/sessions/${this.latest.id}/branches/${branch}`, { method: "DELETE" });
    if (!response.ok) this.on.notify(await response.text());
  }

  done(button, words) {
    const before = button.textContent;
    button.textContent = words;
    setTimeout(() => (button.textContent = before), 1500);
  }
}
