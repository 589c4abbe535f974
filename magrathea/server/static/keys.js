// Keyboard and touch buttons: sends which action is pressed and released. A world names its keys as a US keyboard has
// them; they are found by their place (KeyboardEvent.code) and shown as this keyboard labels them.

const ARROWS = { ArrowUp: "pad-up", ArrowLeft: "pad-left", ArrowDown: "pad-down", ArrowRight: "pad-right" };
const GLYPHS = { ArrowUp: "↑", ArrowLeft: "←", ArrowDown: "↓", ArrowRight: "→", " ": "Space", Escape: "Esc",
  Backspace: "Bksp", Enter: "↵" };

const PUNCTUATION = { " ": "Space", ".": "Period", ",": "Comma", "-": "Minus", "=": "Equal", "/": "Slash", ";": "Semicolon", "'": "Quote",
  "[": "BracketLeft", "]": "BracketRight", "\\": "Backslash", "`": "Backquote" };

const normal = (key) => (key.length === 1 ? key.toLowerCase() : key);

// Where the key of a US keyboard is: "e" -> "KeyE".
export function codeOf(key) {
  if (/^[a-z]$/i.test(key)) return `Key${key.toUpperCase()}`;
  if (/^[0-9]$/.test(key)) return `Digit${key}`;
  return PUNCTUATION[key] ?? key;
}

// What this keyboard has printed on its keys, digits aside: asked of the browser, where it tells, and learned from keys that go down.
const printed = new Map(); // code -> key

export function glyph(key) {
  const shown = printed.get(codeOf(key)) ?? key;
  return GLYPHS[shown] ?? (shown.length === 1 ? shown.toUpperCase() : shown);
}

export function keyCap(key) {
  const made = Object.assign(document.createElement("kbd"), { textContent: glyph(key) });
  made.dataset.key = key;
  return made;
}

function learn(code, key) {
  if (!/^(Key|Minus|Equal|Bracket|Semicolon|Quote|Back(slash|quote)|Comma|Period|Slash)/.test(code) || [...key].length !== 1) return;
  if (printed.get(code) === normal(key)) return;
  printed.set(code, normal(key));
  for (const shown of document.querySelectorAll("kbd[data-key]")) shown.textContent = glyph(shown.dataset.key);
}

async function learnLayout() {
  try {
    for (const [code, key] of await navigator.keyboard.getLayoutMap()) learn(code, key);
  } catch {
    // this browser does not tell
  }
}

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

export class Keys {
  // on has: press(action), release(action or null), shortcut(name)
  constructor(actions, on) {
    this.on = on;
    const uses = [
      ...Object.entries(shortcuts(actions)).filter(([, key]) => key).map(([name, key]) => [key, { shortcut: name }]),
      ...actions.flatMap((action) => action.keys.map((key) => [key, { action: action.index }])),
    ];
    this.byCode = new Map(uses.map(([key, use]) => [codeOf(key), use]));
    this.byKey = new Map(uses.map(([key, use]) => [normal(key), use])); // where a key has no place, or another one
    this.down = new Map(); // code of a key, or id of a pointer, that is held -> its action
    this.buttons = new Map();
    this.ended = false;
    window.addEventListener("keydown", (event) => this.keydown(event));
    window.addEventListener("keyup", (event) => this.lift(event.code || event.key));
    window.addEventListener("blur", () => this.releaseAll());
    learnLayout();
  }

  keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || isTyping(event)) return;
    if (!event.shiftKey) learn(event.code, event.key);
    const use = this.ended && (event.code === "KeyR" || ["r", "Enter"].includes(normal(event.key))) ? { shortcut: "reset" }
      : this.byCode.get(event.code) ?? this.byKey.get(normal(event.key));
    if (!use) return;
    event.preventDefault();
    if (event.repeat) return;
    if (use.shortcut) this.on.shortcut(use.shortcut);
    else this.press(event.code || event.key, use.action);
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
    const text = Object.assign(document.createElement("span"), { textContent: label(action.name) });
    if (place.startsWith("pad-")) {
      const arrow = Object.assign(document.createElement("span"), { textContent: glyph(arrowOf(action)) });
      arrow.setAttribute("aria-hidden", "true");
      text.className = "hidden-text";
      button.append(arrow, text);
    } else {
      button.append(...action.keys.slice(0, 1).map(keyCap), text);
    }
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
