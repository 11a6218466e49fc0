"""k-space to images to maps: MRI reconstruction and relaxometry."""
