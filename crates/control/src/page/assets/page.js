// Copies a secret, takes it away when its page is left, and lets no form be sent twice. Everything works without it.
"use strict";

const copied = document.getElementById("copied");

async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    // Where the page did not come by HTTPS there is no clipboard but the old one.
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const done = await copy(document.getElementById(button.dataset.copy));
    // Said anew each time, to those who hear it too.
    copied.textContent = "";
    requestAnimationFrame(() => {
      copied.textContent = done ? "Copied." : "It could not be copied: select it and copy it by hand.";
    });
  });
}

for (const form of document.forms) {
  form.addEventListener("submit", (event) => {
    if (form.dataset.sent) event.preventDefault();
    form.dataset.sent = "yes";
    // Who stops the browser meanwhile may try again.
    setTimeout(() => delete form.dataset.sent, 5000);
  });
}

addEventListener("pagehide", () => {
  for (const secret of document.querySelectorAll("[data-secret]")) secret.textContent = "";
});

addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});
