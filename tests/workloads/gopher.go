// Go, whose binaries have no .eh_frame and whose leaf functions have no frame: in goroutines that keep their thread,
// runtime.goexit -> main.body -> main.outer -> main.middle -> main.leafCost | main.framedCost.
// Records spans as the workloads in C do.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

const (
	monotonic = 1
	threadCPU = 3
	rounds    = 300000
	maxSpans  = 200000
)

type clocks struct {
	Time  int64 `json:"time_ns"`
	CPU   int64 `json:"cpu_ns"`
	Delay int64 `json:"delay_ns"`
}

type span struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
	Start clocks `json:"start"`
	End   clocks `json:"end"`
}

type thread struct {
	Tid   int    `json:"tid"`
	Comm  string `json:"comm"`
	Spans []span `json:"spans"`
}

var (
	stop atomic.Bool
	sink atomic.Uint64
)

//go:noinline
func clockNs(clock uintptr) int64 {
	var time syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&time)), 0)
	return time.Nano()
}

//go:noinline
func now() clocks { return clocks{Time: clockNs(monotonic), CPU: clockNs(threadCPU)} }

// Calls nothing and keeps nothing on the stack: it has no frame.
//
//go:noinline
func leafCost(x uint64) uint64 {
	for i := uint64(0); i < rounds; i++ {
		x = (x^(x>>29))*0xbf58476d1ce4e5b9 + i
	}
	return x
}

// Keeps something on the stack.
//
//go:noinline
func framedCost(x uint64) uint64 {
	var kept [16]uint64
	for i := uint64(0); i < rounds; i++ {
		x = (x^(x>>29))*0xbf58476d1ce4e5b9 + i
		kept[i%16] ^= x
	}
	return kept[x%16]
}

//go:noinline
func middle(framed bool, x uint64) uint64 {
	if framed {
		return framedCost(x) + 1
	}
	return leafCost(x) + 2
}

//go:noinline
func outer(framed bool, x uint64) uint64 {
	var kept [9]uint64
	kept[x%9] = middle(framed, x)
	return kept[x%9] ^ 1
}

//go:noinline
func body(out *thread) {
	runtime.LockOSThread()
	out.Tid = syscall.Gettid()
	out.Comm = "gopher"
	for !stop.Load() {
		x := sink.Load()
		name := "main.leafCost"
		framed := x%100 < 30
		if framed {
			name = "main.framedCost"
		}
		start := now()
		sink.Add(outer(framed, x))
		end := now()
		if len(out.Spans) < cap(out.Spans) {
			out.Spans = append(out.Spans, span{name, 0, start, end})
		}
	}
	at := now()
	out.Spans = append(out.Spans, span{"end", 0, at, at})
}

func main() {
	const workers = 2
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGALRM)
	var group sync.WaitGroup
	threads := make([]thread, workers)
	for i := range threads {
		threads[i].Spans = make([]span, 0, maxSpans)
		group.Add(1)
		go func() {
			body(&threads[i])
			group.Done()
		}()
	}
	fmt.Println("ready")
	<-ended
	stop.Store(true)
	group.Wait()
	truth, err := json.Marshal(map[string]any{"pid": os.Getpid(), "threads": threads})
	if err == nil && os.Getenv("TRUTH") != "" {
		err = os.WriteFile(os.Getenv("TRUTH"), truth, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
