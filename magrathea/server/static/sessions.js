// The list of sessions: open, delete, upload.

const list = document.getElementById("sessions");
const notice = document.getElementById("notice");
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function ago(seconds) {
  const past = Math.max(0, Date.now() / 1000 - seconds);
  const [unit, size] = UNITS.find(([, size]) => past >= size) ?? ["", 0];
  if (!unit) return "just now";
  const count = Math.floor(past / size);
  return `${count} ${unit}${count > 1 ? "s" : ""} ago`;
}

const count = (number, word, plural) => `${number} ${number === 1 ? word : plural}`;

function item(session) {
  const picture = `/api/sessions/${session.id}/branches/${session.head}/steps/${session.num_steps}.png`;
  const facts = [session.world, count(session.num_steps, "step", "steps"), ago(session.used)];
  if (session.num_branches > 1) facts.splice(2, 0, count(session.num_branches, "branch", "branches"));
  if (session.viewers) facts.push(count(session.viewers, "viewer", "viewers"));
  const link = element("a", { href: `/play/${encodeURIComponent(session.world)}?session=${session.id}`, textContent: session.name || "Unnamed session" });
  const remove = element("button", { type: "button", textContent: "Delete" });
  const named = session.name || "this session";
  remove.setAttribute("aria-label", `Delete ${named}`);
  const made = element("li", { className: "session-item" }, element("img", { src: picture, alt: "", loading: "lazy", width: 72, height: 72 }),
    element("div", {}, element("h2", {}, link), element("p", { textContent: facts.join(" · ") })), remove);
  remove.addEventListener("click", () => confirmed(remove, named) && erase(session.id, made));
  return made;
}

// The first click asks, the second does it.
function confirmed(button, named) {
  if (button.dataset.asked) return true;
  button.dataset.asked = "yes";
  button.textContent = "Delete for good?";
  button.setAttribute("aria-label", `Delete for good? ${named}`);
  setTimeout(() => {
    delete button.dataset.asked;
    button.textContent = "Delete";
    button.setAttribute("aria-label", `Delete ${named}`);
  }, 4000);
  return false;
}

async function erase(id, made) {
  const response = await fetch(`/api/sessions/${id}`, { method: "DELETE" });
  if (response.ok) made.remove();
  else notice.textContent = await response.text();
  if (response.ok && !list.childElementCount) notice.textContent = "No saved sessions.";
}

async function upload(file) {
  notice.textContent = `Reading ${file.name}…`;
  const name = file.name.replace(/\.mwsession$/, "").slice(0, 80);
  const response = await fetch(`/api/sessions?name=${encodeURIComponent(name)}`, { method: "POST", body: file });
  if (!response.ok) {
    notice.textContent = await response.text();
    return;
  }
  const session = await response.json();
  location.href = `/play/${encodeURIComponent(session.world)}?session=${session.id}`;
}

document.getElementById("upload").addEventListener("change", (event) => {
  if (event.target.files.length) upload(event.target.files[0]);
  event.target.value = "";
});

try {
  const response = await fetch("/api/sessions");
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  const sessions = await response.json();
  list.append(...sessions.map(item));
  notice.textContent = sessions.length ? "" : "No saved sessions yet. Play a world to make one.";
} catch (error) {
  notice.textContent = `The sessions cannot be listed: ${error.message}. Reload the page to try again.`;
}
list.setAttribute("aria-busy", "false");
