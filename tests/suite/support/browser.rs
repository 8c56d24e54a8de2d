//! A real browser, to look at pages: Debian's chromium, installed if it is not there.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// Runs in the page when it has loaded, and leaves what it measured for [`look_at`].
const MEASURE: &str = r#"
addEventListener("load", () => {
    const box = (element) => element.getBoundingClientRect();
    const inside = (inner, outer) =>
        inner.left >= outer.left - 1 && inner.right <= outer.right + 1 && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1;
    const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
    const drawings = [...document.querySelectorAll("svg")];
    const texts = (drawing) => [...drawing.querySelectorAll("text")].filter((text) => text.textContent.trim());
    const labels = (drawing) => texts(drawing).filter((text) => !text.classList.contains("mark"));
    const overlaps = (drawing) => {
        const all = labels(drawing);
        return all.flatMap((one, place) => all.slice(place + 1).filter((other) => meet(box(one), box(other)))
            .map((other) => one.textContent.trim() + " / " + other.textContent.trim()));
    };
    const measured = {
        title: document.title,
        width: innerWidth,
        scroll_width: document.documentElement.scrollWidth,
        sections: [...document.querySelectorAll("section")].map((section) => ({
            id: section.id,
            height: box(section).height,
            rows: section.querySelectorAll("tbody tr").length,
            drawings: section.querySelectorAll("svg").length,
            text: section.innerText,
        })),
        empty: drawings.filter((drawing) => box(drawing).width < 100 || box(drawing).height < 30 || !drawing.querySelector("rect, circle, polyline, path")).length,
        outside: drawings.flatMap((drawing) => texts(drawing).filter((text) => !inside(box(text), box(drawing))).map((text) => text.textContent.trim())),
        overlaps: drawings.flatMap(overlaps),
        loaded: performance.getEntriesByType("resource").map((entry) => entry.name),
        images: document.images.length,
    };
    const result = document.createElement("pre");
    result.id = "measured";
    result.textContent = encodeURIComponent(JSON.stringify(measured));
    document.body.append(result);
});
"#;

/// What the browser makes of a page: a copy of it, beside it, is shown in a window of this width and measured by a script.
pub fn look_at(page: &Path, width: u32) -> Value {
    let text = std::fs::read_to_string(page).unwrap();
    let policy =
        text.find("<meta http-equiv=\"Content-Security-Policy\"").expect("the page forbids what it does not need");
    let end = policy + text[policy..].find('>').unwrap() + 1;
    let copy = page.with_extension("measured.html");
    std::fs::write(&copy, format!("{}<script>{MEASURE}</script>{}", &text[..policy], &text[end..])).unwrap();
    let window = format!("--window-size={width},1000");
    let dom = browse(&[&window, "--virtual-time-budget=10000", "--dump-dom", &url(&copy)]);
    let dom = String::from_utf8(dom).unwrap();
    let start = dom.find("<pre id=\"measured\">").unwrap_or_else(|| panic!("nothing was measured: {dom}")) + 19;
    let measured = &dom[start..start + dom[start..].find('<').unwrap()];
    let bytes: Vec<u8> = url::form_urlencoded::parse(format!("x={}", measured.replace('+', "%2B")).as_bytes())
        .next()
        .map(|(_, value)| value.into_owned().into_bytes())
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// Draws a page as a picture.
pub fn photograph(page: &Path, picture: &Path, (width, height): (u32, u32)) {
    let window = format!("--window-size={width},{height}");
    let screenshot = format!("--screenshot={}", picture.display());
    browse(&[&window, "--hide-scrollbars", &screenshot, &url(page)]);
}

fn url(page: &Path) -> String {
    format!("file://{}", page.display())
}

fn browse(arguments: &[&str]) -> Vec<u8> {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(chromium())
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// The browser's command.
fn chromium() -> &'static str {
    static FOUND: OnceLock<&str> = OnceLock::new();
    let find = || ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| runs(name, &["--version"]));
    FOUND.get_or_init(|| {
        find().unwrap_or_else(|| {
            let install = ["-y", "--no-install-recommends", "install", "chromium"];
            let installed = runs("apt-get", &["update"]) && runs("apt-get", &install);
            assert!(installed, "there is no chromium, and it cannot be installed: as root, apt-get install chromium");
            find().expect("chromium is installed")
        })
    })
}

fn runs(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
