// The slice viewer: volumes are pictures of axial slices beside each other, read into arrays once they are asked for.
{
  const cases = JSON.parse(document.getElementById("viewer-cases").textContent);
  const form = document.getElementById("viewer-form");
  const opened = new Map();
  let shown = null, turn = 0;

  // Every fourth byte of a picture's pixels: grey values, or labels.
  async function pixels(address) {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
    const context = canvas.getContext("2d", {willReadFrequently: true});
    context.drawImage(image, 0, 0);
    const rgba = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return Uint8Array.from({length: rgba.length / 4}, (_, i) => rgba[4 * i]);
  }

  function remembered(address, made) {
    if (!opened.has(address)) opened.set(address, pixels(address).then(made));
    return opened.get(address);
  }

  const chosen = name => form.elements[name].value;
  const sliders = [...form.querySelectorAll("input[type=range]")];

  async function show(move) {
    const view = cases[Number(chosen("case"))], mine = ++turn;
    const labels = await remembered(view.labels, values => values.map(value => (value + {{ step // 2 }}) / {{ step }} | 0));
    const grey = await remembered(view.contrasts[chosen("contrast")], values => values);
    if (mine !== turn) return;  // another choice was made while this one was decoded
    if (shown !== view || move) {
      sliders.forEach((slider, axis) => { slider.max = view.shape[axis] - 1; slider.value = view.at[axis]; });
    }
    shown = view;
    draw(view, labels, grey);
  }

  function draw(view, labels, grey) {
    const at = sliders.map(slider => Number(slider.value)), [depth, height, width] = view.shape;
    const place = (z, y, x) => ((z / view.columns | 0) * height + y) * view.columns * width + (z % view.columns) * width + x;
    const [mmZ, mmY, mmX] = view.spacing_mm;
    const planes = {
      axial: [width, height, mmX, mmY, (row, column) => place(at[0], row, column), at[1], at[2]],
      coronal: [width, depth, mmX, mmZ, (row, column) => place(depth - 1 - row, at[1], column), depth - 1 - at[0], at[2]],
      sagittal: [height, depth, mmY, mmZ, (row, column) => place(depth - 1 - row, column, at[2]), depth - 1 - at[0], at[1]],
    };
    for (const [name, plane] of Object.entries(planes)) paint(document.getElementById(`viewer-${name}`), labels, grey, ...plane);
    sliders.forEach((slider, axis) => {
      slider.nextElementSibling.value = slider.ariaValueText = `${at[axis] + 1} of ${view.shape[axis]}`;
    });
  }

  function paint(canvas, labels, grey, columns, rows, mmColumn, mmRow, index, crossRow, crossColumn) {
    const scale = Math.max(4, Math.ceil(720 / Math.max(columns, rows))), what = chosen("labels");
    const filled = {prediction: 3, both: 3, truth: 12}[what] || 0, small = new OffscreenCanvas(columns, rows);
    const image = new ImageData(columns, rows);
    const truth = (row, column) => row < 0 || column < 0 || row >= rows || column >= columns ? 0 : labels[index(row, column)] >> 2;
    for (let row = 0, i = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1, i += 4) {
        const where = index(row, column), value = grey[where];
        const colour = filled === 3 ? COLOURS[labels[where] & 3] : filled ? COLOURS[labels[where] >> 2] : null;
        for (let c = 0; c < 3; c += 1) image.data[i + c] = colour ? value * 0.45 + colour[c] * 0.55 : value;
        image.data[i + 3] = 255;
      }
    }
    small.getContext("2d").putImageData(image, 0, 0);
    canvas.width = columns * scale;
    canvas.height = rows * scale;
    canvas.style.aspectRatio = `${columns * mmColumn} / ${rows * mmRow}`;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    if (what === "both") {
      for (const [colour, thick] of [[null, 3], [COLOURS, 1.5]]) {
        for (let value = 1; value < COLOURS.length; value += 1) {
          context.beginPath();
          for (let row = 0; row < rows; row += 1) {
            for (let column = 0; column < columns; column += 1) {
              if (truth(row, column) !== value) continue;
              const x = column * scale, y = row * scale, end = scale - 1;
              if (truth(row - 1, column) !== value) { context.moveTo(x, y + 1); context.lineTo(x + scale, y + 1); }
              if (truth(row + 1, column) !== value) { context.moveTo(x, y + end); context.lineTo(x + scale, y + end); }
              if (truth(row, column - 1) !== value) { context.moveTo(x + 1, y); context.lineTo(x + 1, y + scale); }
              if (truth(row, column + 1) !== value) { context.moveTo(x + end, y); context.lineTo(x + end, y + scale); }
            }
          }
          context.strokeStyle = colour ? `rgb(${colour[value]})` : "#000";
          context.lineWidth = thick;
          context.stroke();
        }
      }
    }
    context.fillStyle = "rgba(255, 255, 255, 0.4)";
    context.fillRect(0, (crossRow + 0.5) * scale, canvas.width, 1);
    context.fillRect((crossColumn + 0.5) * scale, 0, 1, canvas.height);
    canvas.onclick = event => {
      const box = canvas.getBoundingClientRect();
      const column = Math.min(columns - 1, Math.floor((event.clientX - box.left) / box.width * columns));
      const row = Math.min(rows - 1, Math.floor((event.clientY - box.top) / box.height * rows));
      const [z, y, x] = {"viewer-axial": [null, row, column], "viewer-coronal": [rows - 1 - row, null, column],
        "viewer-sagittal": [rows - 1 - row, column, null]}[canvas.id];
      [z, y, x].forEach((value, axis) => { if (value !== null) sliders[axis].value = value; });
      show(false);
    };
  }

  const COLOURS = {{ rgb | tojson }};
  form.addEventListener("input", () => show(false));
  show(true);
}
