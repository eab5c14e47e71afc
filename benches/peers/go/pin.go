package main

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Keeps this process on one core, if one is given. The runtime has its threads already, and has counted the cores: it starts again.
func pin(core int) error {
	if core < 0 {
		return nil
	}
	var now, wanted unix.CPUSet
	if err := unix.SchedGetaffinity(0, &now); err != nil {
		return err
	}
	wanted.Set(core)
	if now == wanted {
		return nil
	}
	runtime.LockOSThread()
	if err := unix.SchedSetaffinity(0, &wanted); err != nil {
		return err
	}
	me, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(me, os.Args, os.Environ())
}
