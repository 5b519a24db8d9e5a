// Prints for addresses across its own code what Go's runtime calls them:
// offset in the file, innermost function, file and line.
package main

import (
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
)

const step = 61

func twice(x int) int  { return thrice(x) - x }
func thrice(x int) int { return 3 * x }

func main() {
	here := reflect.ValueOf(main).Pointer()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		panic(err)
	}
	for _, line := range strings.Split(string(maps), "\n") {
		var start, end, offset uintptr
		var access string
		n, _ := fmt.Sscanf(line, "%x-%x %s %x", &start, &end, &access, &offset)
		if n == 4 && start <= here && here < end {
			for pc := start + uintptr(twice(0)); pc < end; pc += step {
				show(pc, pc-start+offset)
			}
		}
	}
}

func show(pc, offset uintptr) {
	f, next := runtime.FuncForPC(pc), runtime.FuncForPC(pc+1)
	if f == nil || next == nil || f.Entry() != next.Entry() {
		return
	}
	// A return address is expected.
	if frame, _ := runtime.CallersFrames([]uintptr{pc + 1}).Next(); frame.Line > 0 {
		fmt.Printf("%d\t%s\t%s\t%d\n", offset, f.Name(), frame.File, frame.Line)
	}
}
