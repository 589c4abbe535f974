// The start page: the worlds as cards.

const list = document.getElementById("worlds");
const notice = document.getElementById("notice");

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function card(world) {
  const id = encodeURIComponent(world.id);
  if (world.error) {
    return element("li", { className: "card broken" }, element("h2", { textContent: world.name }), element("p", { textContent: world.error }));
  }
  const preview = element("img", { src: `/api/worlds/${id}/starts/0.png`, alt: "", className: "preview" });
  const title = element("h2", {}, element("a", { href: `/play/${id}`, textContent: world.name }));
  const facts = [`${world.actions.length} actions`, `${Number(world.fps)} frames a second`, world.license].filter(Boolean);
  const foot = element("p", { className: "facts", textContent: facts.join(" · ") });
  if (world.has_card) foot.append(" · ", element("a", { href: `/card/${id}`, textContent: "Model card" }));
  const item = element("li", { className: "card" }, preview, title, element("p", { textContent: world.description }), foot);
  cycleStarts(item, preview, id, world.num_starts);
  return item;
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
