//! RIM: what devices the node has, as sysfs, /dev, udev and CDI tell.
