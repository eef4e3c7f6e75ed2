// The default wire in another language, with nothing but its standard library:
// an unsigned 64-bit big-endian length, then the payload.
//
//	go run wire.go serve               prints the port, answers every frame with
//	                                   its bytes in reverse
//	go run wire.go send PORT N DEPTH   sends N requests, DEPTH of them ahead of
//	                                   their responses, and checks each
package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand"
	"net"
	"os"
	"strconv"
)

func main() {
	var err error
	switch os.Args[1] {
	case "serve":
		err = serve()
	case "send":
		var args [3]int
		for i := range args {
			if args[i], err = strconv.Atoi(os.Args[2+i]); err != nil {
				break
			}
		}
		if err == nil {
			err = send(args[0], args[1], args[2])
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func readFrame(r io.Reader) ([]byte, error) {
	var header [8]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint64(header[:])
	if length > 1<<24 {
		return nil, fmt.Errorf("frame of %d bytes is too large", length)
	}
	payload := make([]byte, length)
	_, err := io.ReadFull(r, payload)
	return payload, err
}

func writeFrame(w io.Writer, payload []byte) error {
	var header [8]byte
	binary.BigEndian.PutUint64(header[:], uint64(len(payload)))
	if _, err := w.Write(header[:]); err != nil {
		return err
	}
	_, err := w.Write(payload)
	return err
}

func reversed(payload []byte) []byte {
	result := make([]byte, len(payload))
	for i, b := range payload {
		result[len(payload)-1-i] = b
	}
	return result
}

func serve() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("Listening on port", listener.Addr().(*net.TCPAddr).Port)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			r, w := bufio.NewReader(conn), bufio.NewWriter(conn)
			for {
				payload, err := readFrame(r)
				if err != nil {
					return
				}
				if err := writeFrame(w, reversed(payload)); err != nil {
					return
				}
				if r.Buffered() == 0 {
					if err := w.Flush(); err != nil {
						return
					}
				}
			}
		}()
	}
}

func send(port, count, depth int) error {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer conn.Close()
	sent := make(chan []byte, depth)
	failed := make(chan error, 1)
	go func() {
		defer close(sent)
		random := rand.New(rand.NewSource(1))
		for i := 0; i < count; i++ {
			// Most are small, some larger than any buffer on the way.
			payload := make([]byte, random.Intn(1<<random.Intn(18)))
			random.Read(payload)
			sent <- payload
			if err := writeFrame(conn, payload); err != nil {
				failed <- err
				return
			}
		}
	}()
	r := bufio.NewReader(conn)
	answered := 0
	for payload := range sent {
		response, err := readFrame(r)
		if err != nil {
			return err
		}
		if !bytes.Equal(response, reversed(payload)) {
			return fmt.Errorf("response %d is not the request's", answered)
		}
		answered++
	}
	select {
	case err := <-failed:
		return err
	default:
		fmt.Println(answered, "responses")
		return nil
	}
}
