// Keyboard, touch buttons and gamepad buttons: sends which button is pressed and released. A world names its keys as a US keyboard has
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
export function shortcuts(buttons) {
  const taken = new Set(buttons.flatMap((button) => button.keys.map(normal)));
  const free = (...keys) => keys.find((key) => !taken.has(key)) ?? null;
  return { pause: free("p", "Escape"), rewind: free("z", "b", "v"), step: free(".", ","), reset: free("r", "Backspace"), heat: free("h", "u", "i"), agent: free("g", "t", "y") };
}

export class Keys {
  // buttons: those of the world; on has: press(index), release(index or null), shortcut(name)
  constructor(buttons, on) {
    this.on = on;
    const uses = [
      ...Object.entries(shortcuts(buttons)).filter(([, key]) => key).map(([name, key]) => [key, { shortcut: name }]),
      ...buttons.flatMap((button) => button.keys.map((key) => [key, { button: button.index }])),
    ];
    this.byCode = new Map(uses.map(([key, use]) => [codeOf(key), use]));
    this.byKey = new Map(uses.map(([key, use]) => [normal(key), use])); // where a key has no place, or another one
    this.down = new Map(); // code of a key, or id of a pointer, that is held -> its button
    this.elements = new Map();
    this.ended = false;
    this.rewinding = null; // the code of the key that is held for it
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
    if (use.shortcut) {
      this.on.shortcut(use.shortcut);
      if (use.shortcut === "rewind") this.rewinding = event.code || event.key;
    }
    else this.press(event.code || event.key, use.button);
  }

  press(source, index) {
    this.down.set(source, index);
    this.mark();
    this.on.press(index);
  }

  lift(source) {
    if (source === this.rewinding) {
      this.rewinding = null;
      this.on.shortcut("rewound");
    }
    if (!this.down.has(source)) return;
    const index = this.down.get(source);
    this.down.delete(source);
    this.mark();
    if (![...this.down.values()].includes(index)) this.on.release(index);
  }

  releaseAll() {
    this.lift(this.rewinding);
    if (!this.down.size) return;
    this.down.clear();
    this.mark();
    this.on.release(null);
  }

  mark() {
    const held = new Set(this.down.values());
    for (const [index, element] of this.elements) element.classList.toggle("pressed", held.has(index));
  }

  // Marks the buttons of the agent's action.
  showAgent(buttons) {
    for (const [index, element] of this.elements) element.classList.toggle("of-agent", buttons.includes(index));
  }

  element(button, place) {
    const element = document.createElement("button");
    element.type = "button";
    element.dataset.button = button.index;
    element.className = place;
    element.title = label(button.name);
    const text = Object.assign(document.createElement("span"), { textContent: label(button.name) });
    if (place.startsWith("pad-")) {
      const arrow = Object.assign(document.createElement("span"), { textContent: glyph(arrowOf(button)) });
      arrow.setAttribute("aria-hidden", "true");
      text.className = "hidden-text";
      element.append(arrow, text);
    } else {
      element.append(...button.keys.slice(0, 1).map(keyCap), text);
    }
    element.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      element.setPointerCapture(event.pointerId);
      this.press(`pointer ${event.pointerId}`, button.index);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      element.addEventListener(end, (event) => this.lift(`pointer ${event.pointerId}`));
    }
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("click", (event) => {
      if (event.detail !== 0) return; // a pointer: handled above
      this.press("click", button.index);
      this.lift("click");
    });
    this.elements.set(button.index, element);
    return element;
  }

  // Buttons of arrow keys on a pad, the space bar's large next to it, the rest as a list.
  layOut(buttons, dpad, primary, list) {
    const main = mainOf(buttons);
    for (const button of buttons) {
      const arrow = arrowOf(button);
      if (arrow) dpad.append(this.element(button, ARROWS[arrow]));
      else if (button === main) primary.append(this.element(button, "main"));
      else list.append(this.element(button, "row"));
    }
    dpad.hidden = !dpad.childElementCount;
    primary.hidden = !primary.childElementCount;
  }
}

export const arrowOf = (button) => button.keys.find((key) => key in ARROWS);
export const mainOf = (buttons) => buttons.find((button) => button.keys.includes(" ")) ?? buttons.find((button) => button.keys.includes("Enter"));

function isTyping(event) {
  const element = document.activeElement;
  if (element?.matches("input:not([type=checkbox], [type=radio], [type=range]), select, textarea")) return true;
  if (element?.matches("input[type=range]") && event.key.startsWith("Arrow")) return true;
  return Boolean(element?.matches("button, a, input")) && (event.key === " " || event.key === "Enter");
}
