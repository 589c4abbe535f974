// A world's model card, or that of its agent: renders a subset of Markdown (headings, lists, tables, code, links) without innerHTML.

const id = location.pathname.split("/").pop();
const place = document.getElementById("card");
document.getElementById("back").href = `/play/${id}`;

function inline(text) {
  const pieces = [];
  for (const piece of text.split(/(`[^`]+`|\*\*[^*]+\*\*|\[[^\]]+\]\([^)\s]+\))/)) {
    const link = piece.match(/^\[([^\]]+)\]\(([^)\s]+)\)$/);
    if (/^`.+`$/.test(piece)) pieces.push(make("code", piece.slice(1, -1)));
    else if (/^\*\*.+\*\*$/.test(piece)) pieces.push(make("strong", piece.slice(2, -2)));
    else if (link && /^(https?:|#|\/)/.test(link[2])) pieces.push(Object.assign(make("a", link[1]), { href: link[2] }));
    else pieces.push(piece);
  }
  return pieces;
}

function make(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());

function block(lines) {
  const first = lines[0];
  const heading = first.match(/^(#{1,4})\s+(.*)$/);
  if (heading) return [make(`h${heading[1].length}`, ...inline(heading[2])), 1];
  if (first.startsWith("```")) {
    const end = lines.findIndex((line, index) => index > 0 && line.startsWith("```"));
    const stop = end < 0 ? lines.length : end;
    return [make("pre", make("code", lines.slice(1, stop).join("\n"))), stop + 1];
  }
  const run = (test) => {
    const stop = lines.findIndex((line) => !test(line));
    return lines.slice(0, stop < 0 ? lines.length : stop);
  };
  if (/^\s*\|/.test(first)) {
    const rows = run((line) => /^\s*\|/.test(line));
    const body = rows.filter((row) => !/^[\s|:-]+$/.test(row)).map((row, index) =>
      make("tr", ...cells(row).map((cell) => make(index ? "td" : "th", ...inline(cell)))));
    return [make("table", ...body), rows.length];
  }
  if (/^\s*[-*]\s/.test(first)) {
    const items = run((line) => /^\s*[-*]\s|^\s{2,}\S/.test(line));
    const texts = items.reduce((all, line) => {
      if (/^\s*[-*]\s/.test(line)) return [...all, line.replace(/^\s*[-*]\s+/, "")];
      return [...all.slice(0, -1), `${all.at(-1)} ${line.trim()}`];
    }, []);
    return [make("ul", ...texts.map((text) => make("li", ...inline(text)))), items.length];
  }
  const paragraph = run((line) => line.trim() && !/^(#{1,4}\s|```|\s*\||\s*[-*]\s)/.test(line));
  return paragraph.length ? [make("p", ...inline(paragraph.join(" "))), paragraph.length] : [null, 1];
}

const ofAgent = new URL(location.href).searchParams.get("of") === "agent";
if (ofAgent) document.title = "The agent's card";
const response = await fetch(`/api/worlds/${id}/${ofAgent ? "agent/card" : "card"}`);
const source = response.ok ? (await response.text()).replace(/^---\n[\s\S]*?\n---\n/, "") : "There is no card here.";
let lines = source.split("\n");
while (lines.length) {
  const [element, used] = block(lines);
  if (element) place.append(element);
  lines = lines.slice(used);
}
place.setAttribute("aria-busy", "false");
