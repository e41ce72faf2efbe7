// QR codes from a camera of this device. The pictures stay in the page.

import { Sight } from "./sight.js";

const EVERY_MS = 200;
const WIDTH = 640;
/** What a badge's code may be: whatever else is held up is not sent anywhere. */
const BADGE = /^[0-9A-Z]{4,32}$/i;

/** Whether this browser lends pages a camera: over https, or on this device. */
export function canScan() {
  return Boolean(navigator.mediaDevices?.getUserMedia);
}

/**
 * Show the camera in `video` and call `found` with each badge's code that is held up.
 * @param {HTMLVideoElement} video
 * @param {(code: string) => void} found
 * @returns {Promise<() => void>} what ends it
 */
export async function scan(video, found) {
  const { default: decode } = await import("../vendor/qr/decode.js");
  const media = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: WIDTH } } });
  video.srcObject = media;
  await video.play();
  const canvas = document.createElement("canvas");
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  const sight = new Sight();
  const timer = setInterval(() => {
    if (!video.videoWidth) return;
    canvas.width = Math.min(WIDTH, video.videoWidth);
    canvas.height = Math.round(canvas.width * video.videoHeight / video.videoWidth);
    context.drawImage(video, 0, 0, canvas.width, canvas.height);
    const code = read(decode, context.getImageData(0, 0, canvas.width, canvas.height));
    if (!BADGE.test(code)) return;
    video.dataset.reads = String(Number(video.dataset.reads ?? 0) + 1);
    if (sight.shows(code, performance.now())) found(code);
  }, EVERY_MS);
  return () => {
    clearInterval(timer);
    for (const track of media.getTracks()) track.stop();
    video.srcObject = null;
  };
}

/** What the picture says; empty where it shows no code, which the decoder says by an error. */
function read(decode, picture) {
  try {
    return decode(picture);
  } catch {
    return "";
  }
}
