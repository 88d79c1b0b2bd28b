//! Images as volumes and volumes in images.
use pintle_runtime::cri::{self, ImageSpec, Mount};
use pintle_runtime::image::store::ProcessConfig;
use pintle_runtime::image::{archive, pack};

use crate::support::{BUSYBOX, Node, container, own};

/// Loads an image `name` with busybox, `files`, and a link `out` that leads to the machine's `/etc`.
fn load(node: &Node, name: &str, files: &[(&str, &str)], volumes: &[&str]) {
    let root = node.directory.join(format!("{name}-root"));
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for applet in ["sh", "sleep", "cat", "ls", "touch"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
    let tar = node.directory.join(format!("{name}.tar"));
    let config = ProcessConfig {
        volumes: volumes.iter().map(|path| ((*path).to_owned(), serde_json::json!({}))).collect(),
        ..Default::default()
    };
    pack::pack(&root, &format!("{name}:1"), &config, &tar).unwrap();
    archive::load(node.runtime.images(), &tar, &[]).unwrap();
}

pub async fn a_declared_volume_starts_with_the_images_content_and_stays_writable(node: Node) {
    load(&node, "data", &[("data/seed", "from the image")], &["/data", "/fresh/"]);
    let sandbox = node.sandbox(own()).await;
    let mut config = container("app", "sleep 1000");
    config.image = Some(ImageSpec { image: "data:1".to_owned(), ..Default::default() });
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().readonly_rootfs = true;
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    assert_eq!(node.exec_text(&id, "cat /data/seed").await, "from the image");
    assert_eq!(
        node.exec_text(&id, "touch /data/x /fresh/y && ls /data /fresh").await.replace('\n', " "),
        "/data: seed x  /fresh: y"
    );
    assert_eq!(node.exec_text(&id, "touch /z 2>/dev/null || echo refused").await, "refused");
}

pub async fn a_part_of_an_image_is_mounted_without_leaving_it(node: Node) {
    load(&node, "parts", &[("a/b/file", "here"), ("etc/mark", "the image's own")], &[]);
    let sandbox = node.sandbox(own()).await;
    let part = |sub: &str, path: &str| Mount {
        container_path: path.to_owned(),
        readonly: true,
        image: Some(ImageSpec {
            image: "parts:1".to_owned(),
            annotations: [(cri::IMAGE_SUB_PATH.to_owned(), sub.to_owned())].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut config = container("app", "sleep 1000");
    config.mounts = vec![part("a/b", "/part"), part("out", "/link")];
    let id = node.create(&sandbox, config).await;
    node.start(&id).await.unwrap();
    assert_eq!(node.exec_text(&id, "cat /part/file; ls /link").await, "heremark");
    let mut config = container("bad", "sleep 1000");
    config.mounts = vec![part("a/missing", "/part")];
    let id = node.create(&sandbox, config).await;
    assert!(node.start(&id).await.unwrap_err().message().contains("a/missing"));
}
