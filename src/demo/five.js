// The only script of the page: five requests at the same moment, to show that none is lost.
const button = document.querySelector("#five");
if (button) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    button.disabled = true;
    const items = button.dataset.items.split(" ");
    // Redirects are not followed: the page that is loaded afterwards is to show the notifications.
    await Promise.allSettled(items.map((item) => fetch("/cart/add", {
      method: "POST",
      body: new URLSearchParams({ item }),
      redirect: "manual",
    })));
    location.assign("/");
  });
}
