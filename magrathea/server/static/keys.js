// Keyboard and touch buttons: sends which action is pressed and released.

const ARROWS = { ArrowUp: "pad-up", ArrowLeft: "pad-left", ArrowDown: "pad-down", ArrowRight: "pad-right" };
const GLYPHS = { ArrowUp: "↑", ArrowLeft: "←", ArrowDown: "↓", ArrowRight: "→", " ": "Space", Escape: "Esc",
  Backspace: "Bksp", Enter: "↵" };

export const glyph = (key) => GLYPHS[key] ?? (key.length === 1 ? key.toUpperCase() : key);

export function label(name) {
  const words = name.replace(/[_-]+/g, " ").trim();
  if (/^no ?op$/i.test(words)) return "Wait";
  return words.charAt(0).toUpperCase() + words.slice(1);
}

// The page's own shortcuts take the first key that the world leaves free.
export function shortcuts(actions) {
  const taken = new Set(actions.flatMap((action) => action.keys.map(normal)));
  const free = (...keys) => keys.find((key) => !taken.has(key)) ?? null;
  return { pause: free("p", "Escape"), step: free(".", ","), reset: free("r", "Backspace"), heat: free("h", "u", "i") };
}

const normal = (key) => (key.length === 1 ? key.toLowerCase() : key);

export class Keys {
  // on has: press(action), release(action or null), shortcut(name)
  constructor(actions, on) {
    this.on = on;
    this.byKey = new Map(actions.flatMap((action) => action.keys.map((key) => [normal(key), action.index])));
    this.shortcuts = new Map(Object.entries(shortcuts(actions)).map(([name, key]) => [key, name]));
    this.down = new Map(); // code of a key, or id of a pointer, that is held -> its action
    this.buttons = new Map();
    this.ended = false;
    window.addEventListener("keydown", (event) => this.keydown(event));
    window.addEventListener("keyup", (event) => this.lift(event.code));
    window.addEventListener("blur", () => this.releaseAll());
  }

  keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    const key = normal(event.key);
    if (this.ended && (key === "r" || key === "Enter")) {
      event.preventDefault();
      if (!event.repeat) this.on.shortcut("reset");
    } else if (this.byKey.has(key)) {
      event.preventDefault();
      if (!event.repeat) this.press(event.code, this.byKey.get(key));
    } else if (this.shortcuts.has(key)) {
      event.preventDefault();
      if (!event.repeat) this.on.shortcut(this.shortcuts.get(key));
    }
  }

  press(source, action) {
    this.down.set(source, action);
    this.mark();
    this.on.press(action);
  }

  lift(source) {
    if (!this.down.has(source)) return;
    const action = this.down.get(source);
    this.down.delete(source);
    this.mark();
    if (![...this.down.values()].includes(action)) this.on.release(action);
  }

  releaseAll() {
    if (!this.down.size) return;
    this.down.clear();
    this.mark();
    this.on.release(null);
  }

  mark() {
    const held = new Set(this.down.values());
    for (const [action, button] of this.buttons) button.classList.toggle("pressed", held.has(action));
  }

  button(action, place) {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.action = action.index;
    button.className = place;
    button.title = label(action.name);
    button.setAttribute("aria-label", label(action.name));
    const onPad = place.startsWith("pad-");
    for (const key of onPad ? [] : action.keys.slice(0, 1)) {
      button.append(Object.assign(document.createElement("kbd"), { textContent: glyph(key) }));
    }
    const text = onPad ? glyph(arrowOf(action)) : label(action.name);
    button.append(Object.assign(document.createElement("span"), { textContent: text }));
    button.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      this.press(`pointer ${event.pointerId}`, action.index);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(end, (event) => this.lift(`pointer ${event.pointerId}`));
    }
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    button.addEventListener("click", (event) => {
      if (event.detail !== 0) return; // a pointer: handled above
      this.press("click", action.index);
      this.lift("click");
    });
    this.buttons.set(action.index, button);
    return button;
  }

  // Arrow actions on a pad, the space bar's action large next to it, the rest as a list.
  layOut(actions, dpad, primary, list) {
    const main = actions.find((action) => action.keys.includes(" ")) ?? actions.find((action) => action.keys.includes("Enter"));
    for (const action of actions) {
      const arrow = arrowOf(action);
      if (arrow) dpad.append(this.button(action, ARROWS[arrow]));
      else if (action === main) primary.append(this.button(action, "main"));
      else list.append(this.button(action, "row"));
    }
    dpad.hidden = !dpad.childElementCount;
    primary.hidden = !primary.childElementCount;
  }
}

export const arrowOf = (action) => action.keys.find((key) => key in ARROWS);

function isTyping(event) {
  const element = document.activeElement;
  if (element?.matches("input:not([type=checkbox], [type=radio], [type=range]), select, textarea")) return true;
  if (element?.matches("input[type=range]") && event.key.startsWith("Arrow")) return true;
  return Boolean(element?.matches("button, a, input")) && (event.key === " " || event.key === "Enter");
}
