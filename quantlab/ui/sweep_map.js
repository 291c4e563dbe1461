// The damage map as a table whose cells are changed in place: a sweep fills it without a flicker, and names of tensors,
// which are strangers' text, only ever become textContent.

const WORDS = {
  waiting: "not measured yet",
  refused: "refused",
  exact: "nothing lost",
  undefined: "no figure",
};
const ROW = 17; // pixels: a row without figures in its cells
const NARROW = 12, LABELLED = 40; // pixels: the least width of a column, and one that holds a figure

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".map");
  const map = (root.map ??= new TensorMap(root));
  map.open = (row, column) => setTriggerValue("cell", { row, column });
  map.draw(data);
  return () => map.watch.disconnect();
}

class TensorMap {
  constructor(root) {
    this.root = root;
    this.legend = root.querySelector(".legend");
    this.scroll = root.querySelector(".scroll");
    this.table = root.querySelector("table");
    this.tip = root.querySelector(".tip");
    this.here = null; // [row, column] under the pointer or the keyboard
    this.drawn = 0; // width of the last drawing
    this.more = element("button", "more");
    this.more.onclick = () => this.scroll.scrollBy({ left: 0.8 * this.scroll.clientWidth, behavior: "smooth" });
    this.scroll.onscroll = () => this.hint();
    this.watch = new ResizeObserver(() => this.scroll.clientWidth !== this.drawn && this.data && this.draw(this.data));
    this.table.onpointermove = (event) => this.point(event.target.closest("td"));
    this.table.onpointerleave = () => this.point(null);
    this.table.onclick = (event) => this.click(event);
    this.scroll.onkeydown = (event) => this.key(event);
    this.scroll.onblur = () => this.point(null);
  }

  draw(data) {
    this.data = data;
    this.watch.observe(this.scroll);
    this.drawn = this.scroll.clientWidth;
    const narrow = this.drawn < 600;
    // Pixels for the names of tensors: they give way before cells have to scroll.
    const left = this.drawn - data.columns.length * (NARROW + 1), letter = narrow ? 5.4 : 6.4;
    const longest = 16 + letter * Math.max(...data.rows.map((name) => name.length));
    this.names = Math.min(longest, narrow ? 150 : Math.min(Math.max(left, 200), 290));
    this.letters = Math.floor((this.names - 8) / letter);
    this.root.classList.toggle("narrow", narrow);
    const room = (this.drawn - this.names) / data.columns.length - 1;
    this.column = Math.max(NARROW, room);
    this.labelled = this.column >= LABELLED;
    this.ramp = ramp(getComputedStyle(this.root).getPropertyValue("--st-background-color"));
    this.drawLegend();
    this.drawHead();
    this.drawBody();
    this.hint();
    this.show();
  }

  // The bar that scrolls sideways lies under all rows, mostly below the screen: what is cut is said on top.
  hint() {
    const hidden = this.scroll.scrollWidth - this.scroll.scrollLeft - this.scroll.clientWidth;
    const count = Math.round(hidden / (this.column + 1));
    this.more.hidden = count < 1;
    write(this.more, `${count} more →`);
    this.scroll.classList.toggle("cut", count > 0);
  }

  drawLegend() {
    const { title, ends, states } = this.data;
    const bar = element("span", "ramp");
    bar.style.background = `linear-gradient(to right, ${[0, 25, 50, 75, 100].map(this.ramp).join(", ")})`;
    const scale = element("span");
    scale.append(`${title}: ${ends[0]}`, bar, ends[1]);
    const others = states.map((state) => {
      const entry = element("span");
      entry.append(element("span", `swatch ${state}`), WORDS[state]);
      return entry;
    });
    this.legend.replaceChildren(scale, ...others, this.more);
  }

  drawHead() {
    const { columns, groups, heads } = this.data;
    const key = JSON.stringify([columns, this.column, this.names]);
    if (key === this.head) return;
    this.head = key;
    this.table.style.minWidth = `${this.names + columns.length * (this.column + 1)}px`;
    const widths = document.createElement("colgroup");
    widths.append(element("col"), ...columns.map(() => element("col")));
    widths.firstChild.style.width = `${this.names}px`;
    const head = document.createElement("thead");
    head.append(this.groups(groups), this.heads(heads));
    this.body = document.createElement("tbody");
    this.table.replaceChildren(widths, head, this.body);
  }

  groups(groups) {
    const row = element("tr");
    row.append(element("th", "name"));
    for (const group of groups) {
      if (row.childElementCount > 1 && row.lastChild.textContent === group) row.lastChild.colSpan += 1;
      else row.append(element("th", "group", group));
    }
    return row;
  }

  heads(heads) {
    const row = element("tr", heads.every((head) => head.length < 4) ? "short" : "");
    row.append(element("th", "name"));
    for (const head of heads) {
      const cell = element("th", "head");
      cell.append(element("span", "", head));
      row.append(cell);
    }
    return row;
  }

  drawBody() {
    const { rows, labels, columns, cells, texts, pinned } = this.data;
    const limits = Object.keys(labels).map(Number), least = Math.min(...limits);
    const names = labels[Math.max(least, ...limits.filter((letters) => letters <= this.letters))];
    while (this.body.rows.length > rows.length) this.body.lastChild.remove();
    while (this.body.rows.length < rows.length) this.body.append(this.emptyRow(columns.length));
    const height = this.labelled ? 24 : ROW;
    rows.forEach((_, i) => {
      const row = this.body.rows[i];
      row.style.height = `${height}px`;
      write(row.cells[0], names[i]);
      cells[i].forEach((cell, j) => this.paint(row.cells[j + 1], cell, texts[i][j], pinned[i][j]));
    });
  }

  emptyRow(count) {
    const row = element("tr");
    row.append(element("th", "name"), ...Array.from({ length: count }, () => element("td")));
    return row;
  }

  paint(td, cell, text, pinned) {
    const shade = typeof cell === "number";
    const look = shade ? this.ramp(cell) : "";
    if (td.look !== look) td.style.background = td.look = look;
    const kind = (shade ? "" : cell) + (pinned ? " pinned" : "");
    if (td.kind !== kind) td.className = td.kind = kind;
    if (shade && this.labelled) td.style.color = this.ramp.text(cell);
    write(td, this.labelled && (shade || cell === "exact") ? text : "");
  }

  // --- pointing and opening

  point(td) {
    this.here = td && this.body.contains(td) ? [td.parentNode.sectionRowIndex, td.cellIndex - 1] : null;
    this.show();
  }

  show() {
    for (const marked of this.table.querySelectorAll(".here")) marked.classList.remove("here");
    const [i, j] = this.here ?? [-1, -1];
    const cell = this.data.cells[i]?.[j];
    this.tip.hidden = cell === undefined || cell === "absent";
    if (this.tip.hidden) return;
    const td = this.body.rows[i].cells[j + 1];
    td.kind = undefined; // its class is about to differ from what was painted
    td.classList.add("here");
    this.body.rows[i].cells[0].classList.add("here");
    const { rows, columns, tensors, config } = this.data;
    const lines = [config ?? columns[j], ...this.told(i, j)];
    this.tip.replaceChildren(element("b", "", tensors?.[i][j] ?? rows[i]), ...lines.map((line) => element("div", "", line)));
    this.place(td);
  }

  told(i, j) {
    const { cells, texts, details, pinned, title } = this.data;
    const cell = cells[i][j], pin = pinned[i][j] ? ["Pinned for the plan"] : [];
    if (cell === "waiting") return ["Not measured yet", ...pin];
    if (cell === "refused") return [`Refused: ${texts[i][j] || "the sweep says why"}`, ...pin];
    const lines = [`${title}: ${texts[i][j] || "no figure"}`, details[i][j], ...pin].filter(Boolean);
    return cell === "exact" ? [...lines, "Nothing lost: every weight comes back exactly"] : lines;
  }

  place(td) {
    const cell = td.getBoundingClientRect(), frame = this.root.getBoundingClientRect();
    const width = this.tip.offsetWidth, height = this.tip.offsetHeight;
    const left = Math.min(Math.max(cell.left - frame.left - width / 2, 0), frame.width - width);
    const below = cell.bottom - frame.top + 6;
    const above = cell.top - frame.top - height - 6;
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${below + height > frame.height && above > 0 ? above : below}px`;
  }

  click(event) {
    const td = event.target.closest("td");
    if (!td) return this.chooseHead(event.target.closest("th"));
    // A finger cannot hover: its first tap shows what the second one opens.
    const first = event.pointerType === "touch" && this.tapped !== td;
    this.tapped = td;
    this.point(td);
    if (!first) this.choose();
  }

  // A head stands for its whole row or column.
  chooseHead(th) {
    if (th?.className.includes("head")) this.open(null, this.data.columns[th.cellIndex - 1]);
    else if (th && this.body.contains(th)) this.open(this.data.rows[th.parentNode.sectionRowIndex], null);
  }

  choose() {
    const [i, j] = this.here ?? [-1, -1];
    const cell = this.data.cells[i]?.[j];
    if (cell === undefined || ["waiting", "refused", "absent"].includes(cell)) return;
    this.open(this.data.rows[i], this.data.columns[j]);
  }

  key(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Enter") return this.choose();
    if (event.key === "Escape") return this.point(null);
    if (!(event.key in steps)) return;
    event.preventDefault();
    const [i, j] = this.here ?? [-1, 0];
    const [down, right] = this.here ? steps[event.key] : [1, 0];
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    this.here = [within(i + down, this.data.rows.length), within(j + right, this.data.columns.length)];
    this.show();
    this.body.rows[this.here[0]].cells[this.here[1] + 1].scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function write(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

// Shade (0 to 100) -> colour: away from the background, on light and on dark; told apart by colour-blind readers.
function ramp(background) {
  const dark = brightness(background) < 0.5;
  const stops = dark
    ? [[30, 36, 43], [110, 62, 24], [214, 106, 36], [255, 214, 150]]
    : [[253, 243, 230], [246, 196, 140], [219, 112, 38], [122, 28, 8]];
  const at = (shade) => {
    const place = (shade / 100) * (stops.length - 1), k = Math.min(Math.floor(place), stops.length - 2);
    return stops[k].map((from, c) => Math.round(from + (place - k) * (stops[k + 1][c] - from)));
  };
  const colour = (shade) => `rgb(${at(shade).join(",")})`;
  colour.text = (shade) => (at(shade).reduce((sum, c) => sum + c, 0) / 765 < 0.55 ? "#fff" : "#111");
  return colour;
}

function brightness(colour) {
  const probe = document.createElement("canvas").getContext("2d");
  probe.fillStyle = colour.trim() || "#fff";
  const hex = /^#(..)(..)(..)/.exec(probe.fillStyle);
  return hex ? hex.slice(1).reduce((sum, part) => sum + parseInt(part, 16), 0) / 765 : 1;
}
