"""The public frozen backbone that turns an image into features; needs the extra `backbone`."""
