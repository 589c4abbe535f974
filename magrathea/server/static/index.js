// The start page: the worlds as cards.

const list = document.getElementById("worlds");
const notice = document.getElementById("notice");

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// A card as soon as the world is known; the rest of it when the server has loaded the world.
function card(world) {
  const preview = element("div", { className: "preview" });
  const title = element("h2", {}, element("a", { href: `/play/${encodeURIComponent(world.id)}`, textContent: world.name }));
  const foot = element("p", { className: "facts", textContent: "Loading…" });
  const item = element("li", { className: "card" }, preview, title, element("p", { textContent: world.description }), foot);
  load(world.id).then((loaded) => complete(item, preview, foot, loaded), (error) => {
    item.className = "card broken";
    item.replaceChildren(element("h2", { textContent: world.name }), element("p", { textContent: error.message }));
  });
  return item;
}

async function load(id) {
  const response = await fetch(`/api/worlds/${encodeURIComponent(id)}`);
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

function counted({ buttons, axes }) {
  const sliders = axes.length ? `${axes.length} ${axes.length === 1 ? "slider" : "sliders"}` : "";
  return [`${buttons.length} actions`, sliders].filter(Boolean).join(", ");
}

function complete(item, preview, foot, world) {
  const id = encodeURIComponent(world.id);
  const image = element("img", { src: `/api/worlds/${id}/starts/0.png`, alt: "", className: "preview" });
  preview.replaceWith(image);
  const facts = [counted(world), `${Number(world.fps)} frames a second`, world.agent ? "an agent plays it" : "", world.license].filter(Boolean);
  foot.textContent = facts.join(" · ");
  if (world.has_card) foot.append(" · ", element("a", { href: `/card/${id}`, textContent: "Model card" }));
  cycleStarts(item, image, id, world.num_starts);
}

// While the pointer is on a card, its picture cycles through the start states.
function cycleStarts(item, preview, id, count) {
  if (count < 2 || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  let timer = 0;
  let index = 0;
  item.addEventListener("pointerenter", () => {
    timer = setInterval(() => {
      index = (index + 1) % Math.min(count, 12);
      preview.src = `/api/worlds/${id}/starts/${index}.png`;
    }, 900);
  });
  item.addEventListener("pointerleave", () => clearInterval(timer));
}

// Words lead to the world, and to the start, that they are nearest to.
document.getElementById("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  const prompt = new FormData(event.target).get("prompt");
  const response = await fetch(`/api/find?${new URLSearchParams({ prompt })}`);
  if (!response.ok) {
    document.getElementById("not-found").textContent = await response.text();
    return;
  }
  const { world, start } = await response.json();
  location.href = `/play/${encodeURIComponent(world)}${start === null ? "" : `?start=${start}`}`;
});

try {
  const response = await fetch("/api/worlds");
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  const worlds = await response.json();
  list.append(...worlds.map(card));
  notice.textContent = worlds.length ? "" : "No worlds here yet. Make one with: magrathea make ENV_ID --out WORLD";
} catch (error) {
  notice.textContent = `The worlds cannot be listed: ${error.message}. Reload the page to try again.`;
}
list.setAttribute("aria-busy", "false");
