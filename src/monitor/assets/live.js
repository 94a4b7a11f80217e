// Replaces the changing part of the page as events come, and says when they stop.
const live = document.getElementById("live");
const connection = document.getElementById("connection");
const events = new EventSource("/events");

events.addEventListener("live", (event) => {
  live.innerHTML = event.data;
  connection.textContent = "live";
  live.classList.remove("stale");
});

// The browser connects again by itself.
events.addEventListener("error", () => {
  connection.textContent = "no connection to the monitor; what you see is old";
  live.classList.add("stale");
});
