"use strict";
// Replaces the live part of the page by what the server sends.
const live = document.getElementById("live");
const link = document.getElementById("link");
const source = new EventSource("events");
source.onopen = () => { link.textContent = "live"; };
source.onmessage = (e) => { live.innerHTML = JSON.parse(e.data); };
source.onerror = () => { link.textContent = "connection lost, trying again: what you see may be old"; };
