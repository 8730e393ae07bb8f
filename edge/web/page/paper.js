// A canvas and a scale in; ECG paper with lines each 1 and 5 mm and a calibration mark of 1 mV, sharp on the screen's own dots, out.

const SMALLEST_PX = 2.6,
  CROWDED_PX = 60;

/** `scale` is {dots_per_mm, dots_per_px, gain, base, palette}, the canvas as large as the screen's dots below it. */
export function paintPaper(canvas, scale) {
  const ink = canvas.getContext("2d");
  ink.fillStyle = scale.palette.paper;
  ink.fillRect(0, 0, canvas.width, canvas.height);
  const isCrowded = canvas.height < CROWDED_PX * scale.dots_per_px;
  if (!isCrowded && scale.dots_per_mm >= SMALLEST_PX * scale.dots_per_px) rule(ink, canvas, scale, 1, scale.palette.fine);
  rule(ink, canvas, scale, 5, scale.palette.bold);
  markMillivolt(ink, scale);
}

// Vertical lines from the left edge, horizontal ones from the baseline.
function rule(ink, canvas, scale, mm, colour) {
  const step = mm * scale.dots_per_mm,
    thick = Math.max(Math.round(scale.dots_per_px), 1);
  ink.fillStyle = colour;
  for (let x = 0; x < canvas.width; x += step) ink.fillRect(Math.round(x), 0, thick, canvas.height);
  for (let y = scale.base % step; y < canvas.height; y += step) ink.fillRect(0, Math.round(y), canvas.width, thick);
}

function markMillivolt(ink, scale) {
  const px = scale.dots_per_px,
    high = scale.gain * scale.dots_per_mm,
    wide = 1.5 * scale.dots_per_mm;
  ink.strokeStyle = scale.palette.soft;
  ink.lineWidth = 1.5 * px;
  ink.beginPath();
  ink.moveTo(px, scale.base);
  ink.lineTo(px + wide, scale.base);
  ink.lineTo(px + wide, scale.base - high);
  ink.lineTo(px + 2 * wide, scale.base - high);
  ink.lineTo(px + 2 * wide, scale.base);
  ink.lineTo(px + 3 * wide, scale.base);
  ink.stroke();
}
