package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// The server's part: says where it listens, answers `report` with its counters, and ends with its input.
func answer(url string) error {
	fmt.Println("LISTENING", url)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if lines.Text() != "report" {
			continue
		}
		counts, err := countsNow()
		if err != nil {
			return err
		}
		if err := json.NewEncoder(os.Stdout).Encode(counts); err != nil {
			return err
		}
	}
	if path, ok := strings.CutPrefix(url, "unix:"); ok {
		os.Remove(path)
	}
	return nil
}

// A server's process.
type serverProcess struct {
	command *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
	url     string
}

func startServer(run *run) (*serverProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{"server", "--transport", run.transport}
	if run.pin {
		args = append(args, "--core", "0")
	}
	if words := strings.Fields(run.server); len(words) > 0 {
		program, args = words[0], append(args, words[1:]...)
	} else {
		args = append(args, "--peer", run.peer)
	}
	command := exec.Command(program, args...)
	command.Stderr = os.Stderr
	input, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	server := &serverProcess{command: command, input: input, output: bufio.NewReader(output)}
	line, err := server.output.ReadString('\n')
	if err != nil {
		return nil, fmt.Errorf("the server said nothing: %w", err)
	}
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "LISTENING ")
	if !ok {
		return nil, fmt.Errorf("the server said %q", line)
	}
	server.url = url
	return server, nil
}

func (s *serverProcess) counts() (counts, error) {
	var counts counts
	if _, err := io.WriteString(s.input, "report\n"); err != nil {
		return counts, err
	}
	line, err := s.output.ReadBytes('\n')
	if err != nil {
		return counts, err
	}
	return counts, json.Unmarshal(line, &counts)
}

func (s *serverProcess) end() {
	s.input.Close()
	s.command.Wait()
}
