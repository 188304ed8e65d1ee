// Shows the webcam above two buttons. Gives {photo: a JPEG as data URL}, or {problem: why there is none}.
async () => {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  } catch (error) {
    return { problem: error.name };
  }
  const video = document.createElement("video");
  video.srcObject = stream;
  video.playsInline = true;
  video.style.cssText = "display: block; width: min(100%, 640px); transform: scaleX(-1)"; // as in a mirror
  const [take, cancel] = ["Take the photo", "Cancel"].map((text) => {
    const button = document.createElement("button");
    button.textContent = text;
    button.style.margin = "8px 8px 8px 0";
    return button;
  });
  const box = document.createElement("div");
  box.append(video, take, cancel);
  document.body.append(box);
  try {
    await video.play();
    google.colab.output.setIframeHeight(document.documentElement.scrollHeight, true);
    const wanted = await new Promise((resolve) => {
      take.onclick = () => resolve(true);
      cancel.onclick = () => resolve(false);
    });
    if (!wanted) return { problem: "cancelled" };
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    return { photo: canvas.toDataURL("image/jpeg", 0.92) };
  } finally {
    for (const track of stream.getTracks()) track.stop();
    box.remove();
  }
}
