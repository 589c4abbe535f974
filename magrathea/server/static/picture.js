// Pictures on canvases, and the heat map of the uncertainty over them.

const HEAT = [240, 120, 40];

export function drawPicture(canvas, part) {
  const [height, width] = part.shape;
  resize(canvas, width, height);
  const image = new ImageData(width, height);
  const pixels = image.data;
  for (let from = 0, to = 0; from < part.data.length; from += 3, to += 4) {
    pixels[to] = part.data[from];
    pixels[to + 1] = part.data[from + 1];
    pixels[to + 2] = part.data[from + 2];
    pixels[to + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

export function drawHeat(canvas, part) {
  const [rows, columns] = part ? part.shape : [1, 1];
  resize(canvas, columns, rows);
  const image = new ImageData(columns, rows);
  for (let cell = 0; part && cell < part.data.length; cell += 1) {
    const alpha = Math.sqrt(part.data[cell] / 255);
    image.data.set([...HEAT, Math.round(230 * alpha)], 4 * cell);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function resize(canvas, width, height) {
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
}

// Give every picture the largest size that is a whole number of screen pixels per picture pixel.
export function fitPictures(container) {
  const views = [...container.querySelectorAll(".view:not([hidden])")];
  const gap = Number.parseFloat(getComputedStyle(container).columnGap) || 0;
  const stacked = getComputedStyle(container).flexDirection === "column";
  const available = stacked ? container.clientWidth : (container.clientWidth - gap * (views.length - 1)) / views.length;
  const pixels = (name) => Number.parseFloat(getComputedStyle(container).getPropertyValue(name));
  const most = Math.max(pixels("--least"), window.innerHeight - pixels("--around"));
  const ratio = window.devicePixelRatio || 1;
  for (const view of views) {
    const canvas = view.querySelector("canvas");
    const scale = Math.min((available * ratio) / canvas.width, (most * ratio) / canvas.height);
    const whole = scale >= 1 ? Math.floor(scale) : scale;
    const screen = view.querySelector(".screen");
    screen.style.width = `${(canvas.width * whole) / ratio}px`;
    screen.style.height = `${(canvas.height * whole) / ratio}px`;
  }
}
